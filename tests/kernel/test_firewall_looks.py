"""How often firewall rules are read: at once where the kernel tells of a change, and else now and then."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from overlayd import firewall
from overlayd.firewall.apply import REST_S
from overlayd.kernel import ipset
from overlayd.lib import process
from tests.kernel.test_firewall import WANTED, backend, namespace
from tests.testbed.netns import namespaces
from tests.testbed.netns.forwarding import use_iptables
from tests.testbed.netns.namespaces import inside

__all__ = ["backend", "namespace"]

FLUSH = ["iptables", "-t", "raw", "-F", "OVERLAYD-PREROUTING"]


def test_rules_are_not_read_again_while_the_kernel_tells_of_no_change(
    namespace: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_iptables("nft", tmp_path, monkeypatch)
    now, ran, run = [0.0], list[object](), process.run
    kept = firewall.Firewall(backend, clock=lambda: now[0])

    def reads() -> bool:
        """Whether a look that has nothing to write runs a program."""
        ran.clear()
        assert not inside(namespace, partial(kept.sync, WANTED)).written
        return bool(ran)

    def noted(argv: list[str], **more: Any) -> str:
        ran.append(argv)
        return run(argv, **more)

    monkeypatch.setattr(process, "run", noted)
    assert inside(namespace, partial(kept.sync, WANTED)).written
    assert [reads(), reads()] == [True, False]
    damage = ["nft", "flush", "table", "ip", "overlayd"]
    run(["ip", "netns", "exec", namespace, *(FLUSH if backend == "iptables" else damage)])
    assert inside(namespace, partial(kept.sync, WANTED)).written
    assert [reads(), reads()] == [True, False]
    if backend == "iptables":
        peers = frozenset(map(str, WANTED.peers_of(4)))
        # Also where as many elements are there as before.
        for harm in (
            ["flush OVERLAYD-PEERS4"],
            [f"del OVERLAYD-PEERS4 {min(peers)}", "add OVERLAYD-PEERS4 192.0.2.66"],
        ):
            for words in harm:
                run(["ip", "netns", "exec", namespace, "ipset", *words.split()])
            assert reads()
            assert inside(namespace, partial(ipset.read, "OVERLAYD-PEERS4")) == peers
            reads()
    # Also without a word of the kernel, as their counters are read along with them.
    reads()
    now[0] += REST_S
    assert reads()


def test_legacy_iptables_tells_of_no_change_and_is_read_by_each_look(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_iptables("legacy", tmp_path, monkeypatch)
    kept = firewall.Firewall("iptables")
    look = partial(inside, namespace, partial(kept.sync, WANTED))
    assert [look().written for _ in range(3)] == [True, False, False]
    namespaces.run(namespace, FLUSH)
    assert look().written
