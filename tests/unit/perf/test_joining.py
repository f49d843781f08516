"""A peer that cannot be measured is a row with its reason, and does not stop the bench."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.perf.joining import PEERS, TUNNELS, join, with_all_peers
from tests.perf.place import Pair, Place
from tests.perf.wanted import Wanted


class Untouched:
    """A topology in which nothing may be made."""

    @property
    def underlay(self) -> Pair:
        raise AssertionError

    def containers(self) -> Pair:
        raise AssertionError

    def peer_container(self, host: int, name: str, mtu_bytes: int) -> Place:
        raise AssertionError((host, name, mtu_bytes))


def test_peers_that_are_not_installed_are_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with ExitStack() as stack:
        ways, reasons = join(Untouched(), PEERS, stack, tmp_path, said.append)
    assert ways == {}
    assert set(reasons) == set(PEERS)
    for name, module in TUNNELS.items():
        assert reasons[name] == f"not installed: {', '.join(module.PROGRAMS)}"
    # swarm needs hosts with a dockerd, which only a cluster has.
    assert reasons["docker overlay"] == "hosts have no dockerd here"
    assert len(said) == len(PEERS)


def test_each_wanted_peer_has_a_row_also_where_nothing_came_up() -> None:
    wanted = Wanted(backends=("vxlan",), measured=("vxlan",))
    found = with_all_peers({"subjects": {}}, wanted)["subjects"]
    assert set(found) == set(PEERS)
    assert all(row["reason"] for row in found.values())
    alone = Wanted(backends=("vxlan",), measured=("vxlan",), peers=False)
    assert with_all_peers({"subjects": {}}, alone) == {"subjects": {}}
