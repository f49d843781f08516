"""What `invoke bench --only` measures."""

from __future__ import annotations

import pytest

from overlayd.errors import ConfigError
from tests.perf.wanted import PARTS, in_place, parts

BACKENDS = ("vxlan", "udp")


def test_without_a_choice_everything_is_measured_in_both_places() -> None:
    assert parts("") == PARTS
    for place in ("cluster", "namespaces"):
        wanted = in_place(place, PARTS, BACKENDS)
        assert wanted is not None
        assert (wanted.measured, wanted.peers, wanted.daemon) == (BACKENDS, True, True)
        assert wanted.many == (place == "namespaces")


def test_a_place_alone_is_its_backends() -> None:
    wanted = in_place("cluster", ["cluster"], BACKENDS)
    assert wanted is not None
    assert (wanted.measured, wanted.peers, wanted.daemon) == (BACKENDS, False, False)
    assert in_place("namespaces", ["cluster"], BACKENDS) is None


def test_peers_alone_are_measured_beside_one_backend_that_is_not() -> None:
    wanted = in_place("namespaces", ["peers"], BACKENDS)
    assert wanted is not None
    assert (wanted.backends, wanted.measured, wanted.peers) == (("vxlan",), (), True)


def test_many_alone_is_in_namespaces_and_needs_no_backends_way() -> None:
    wanted = in_place("namespaces", ["many"], BACKENDS)
    assert wanted is not None
    assert (wanted.ways, wanted.daemon, wanted.many) == (False, False, True)
    assert in_place("cluster", ["many"], BACKENDS) is None


def test_builds_alone_are_in_no_place() -> None:
    assert in_place("cluster", ["builds"], BACKENDS) is None


def test_a_part_that_there_is_not_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="only is 'clusters'") as raised:
        parts("clusters")
    assert "cluster, namespaces, peers, daemon, many, builds" in str(raised.value.hint)
