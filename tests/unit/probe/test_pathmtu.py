"""The search for the largest packet that a path takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.probe.pathmtu import Search


def run(search: Search, path_bytes: int, *, router: bool = False) -> list[int]:
    """Search on a path that takes `path_bytes`; the sizes that were tried."""
    tried = []
    while (size := search.next_bytes) is not None:
        tried.append(size)
        if size <= path_bytes:
            search.came_through(size)
        else:
            search.got_lost(size, hint_bytes=path_bytes if router else None)
    return tried


def test_where_nothing_is_wrong_one_size_is_tried() -> None:
    search = Search(wished_bytes=1450, answered_bytes=36)
    assert run(search, 1500) == [1450]
    assert search.found_bytes == 1450


def test_a_router_that_says_what_it_takes_saves_the_search() -> None:
    search = Search(wished_bytes=1500, answered_bytes=36)
    assert run(search, 1380, router=True) == [1500, 1380]
    assert search.found_bytes == 1380


@given(st.integers(36, 9000), st.integers(36, 9000), st.booleans())
def test_it_finds_every_size_in_few_steps(path_bytes: int, wished_bytes: int, router: bool) -> None:
    search = Search(wished_bytes=wished_bytes, answered_bytes=36)
    tried = run(search, path_bytes, router=router)
    assert search.found_bytes == min(path_bytes, wished_bytes) or wished_bytes < 36
    assert len(tried) <= 15
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("lie", [10, 1499, 9000])
def test_a_router_that_lies_is_found_out(lie: int) -> None:
    search = Search(wished_bytes=1500, answered_bytes=36)
    while (size := search.next_bytes) is not None:
        if size <= 1234:
            search.came_through(size)
        else:
            search.got_lost(size, hint_bytes=lie)
    assert search.found_bytes == 1234
