"""Root filesystems for tests are made once, completely or not at all, by one process at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.testbed.cluster import roots

RELEASE = roots.DebianRoot(suite="suite")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The roots that a stand-in for the recipe made; each takes a while."""
    found: list[Path] = []

    def make(_release: roots.DebianRoot, _mirror: str, place: Path) -> None:
        time.sleep(0.2)
        place.mkdir()
        found.append(place)

    monkeypatch.setattr(roots, "ROOT", tmp_path)
    monkeypatch.setattr(roots, "_mirror", lambda: "http://mirror.example/debian")
    monkeypatch.setattr(roots, "_make", make)
    return found


def test_the_second_process_waits_and_uses_the_root_of_the_first(made: list[Path]) -> None:
    with ThreadPoolExecutor(max_workers=4) as pool:
        places = list(pool.map(lambda _: roots.cached(RELEASE), range(4)))
    assert made == [RELEASE.place()]
    assert set(places) == {RELEASE.place()}


def test_an_existing_root_needs_no_mirror(made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    roots.cached(RELEASE)

    def nothing() -> str:
        raise roots.NoSuchRelease("no mirror here")

    monkeypatch.setattr(roots, "_mirror", nothing)
    assert roots.cached(RELEASE) == RELEASE.place()
    with pytest.raises(roots.NoSuchRelease):
        roots.cached(roots.DebianRoot(suite="other"))
