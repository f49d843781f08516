"""The fast path's programs by TCX: they come and go under traffic, are known after a crash, with the unit's rights."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from overlayd.fastpath.libbpf import Loaded
from overlayd.fastpath.programs import OBJECT
from overlayd.kernel import attached, program_ids, tcx
from overlayd.kernel.tc import Direction
from overlayd.lib import hostlock, marks
from tests.kernel.test_fast_path import a, b
from tests.testbed.netns import namespaces
from tests.testbed.netns.fast_path import (
    WITHOUT_TCX,
    all_arrives,
    fast,
    fast_laboratory,
    filters,
    flowing,
    moved,
    programs,
    slow,
    telling,
)
from tests.testbed.netns.foreign_bpf import NOTHING, made
from tests.testbed.netns.lab import Host, Lab
from tests.testbed.netns.second_network import SecondNetworkHost, configure
from tests.testbed.netns.traffic import pinging
from tests.testbed.polling import eventually

__all__ = ["a", "b"]

OURS = ["eth0 ingress tcx overlayd_in", "overlay.1 egress tcx overlayd_left", "vethc ingress tcx overlayd_out"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b, whose daemons have the unit's rights only."""
    with fast_laboratory(tmp_path_factory.mktemp("fast"), "vxlan", confined=True) as lab:
        if namespaces.inside(lab.hosts[0].namespace, lambda: tcx.read(1, Direction.INGRESS)) is None:
            pytest.skip("this kernel has no TCX (Linux 6.6 has)")
        yield lab


def restart(host: Host) -> None:
    host.stop()
    host.start()


def kill(host: Host) -> None:
    host.stop(signal.SIGKILL)
    host.start()


def turn_off_and_on(host: Host) -> None:
    host.stop()
    host.settings["fast-path"] = "off"
    try:
        host.start()
        assert slow(host) == "the setting fast-path is off"
        assert programs(host) == []
    finally:
        host.stop()
        host.settings["fast-path"] = "auto"
        host.start()


@pytest.mark.parametrize("happens", [restart, kill, turn_off_and_on])
def test_no_packet_is_lost_whatever_happens_to_the_programs(a: Host, b: Host, happens: Callable[[Host], None]) -> None:
    """Pings go the kernel's way, past the programs; datagrams and the connection take the fast path."""
    with pinging(a, b, interval_s=0.002, at_most=30_000) as losses, telling(a, b) as told, flowing(b, a) as flow:
        for host in (a, b):
            moved(flow)
            happens(host)
            fast(host)
        moved(flow)
    assert (losses.lost, told.lost, flow.harmed) == (0, 0, 0), f"{losses}, {told}"
    assert told.sent > 500
    assert sorted(filters(a)) == sorted(filters(b)) == OURS


def test_what_somebody_detaches_is_attached_again_and_doctor_sees_that_it_is_missing(a: Host, b: Host) -> None:
    def detach() -> None:
        for one in attached_to("eth0"):
            tcx.detach(socket.if_nametoindex("eth0"), Direction.INGRESS, one)

    def attached_to(link: str) -> tuple[int, ...]:
        row = tcx.read(socket.if_nametoindex(link), Direction.INGRESS)
        return row.ids if row else ()

    assert "its programs are at the underlay and at every container" in doctor(a)
    daemon = a.status()["pid"]
    os.kill(daemon, signal.SIGSTOP)
    try:
        namespaces.inside(a.namespace, detach)
        assert "the kernel has no program of it at eth0" in doctor(a)
    finally:
        os.kill(daemon, signal.SIGCONT)
    eventually("it is back", lambda: sorted(filters(a)) == OURS)


def test_filters_of_an_overlayd_that_had_no_tcx_are_replaced(a: Host, b: Host) -> None:
    a.stop()
    a.cleanup()
    launcher, a.launcher = a.launcher, (sys.executable, str(WITHOUT_TCX))
    try:
        a.start()
        fast(a)
        assert any("overlayd:in" in one for one in filters(a, "eth0")), filters(a)
    finally:
        a.stop()
        a.launcher = launcher
        a.start()
    fast(a)
    eventually("only programs of TCX are there", lambda: sorted(programs(a)) == OURS)


def test_what_a_killed_daemon_left_is_taken_away_by_cleanup(a: Host, b: Host) -> None:
    a.stop(signal.SIGKILL)
    assert sorted(filters(a)) == OURS
    assert "fast path at eth0" in a.cleanup()
    assert programs(a) == []
    assert list(hostlock.FOLDER.glob(f"{namespace_of(a)}-*.programs")) == []
    a.start()
    fast(a)


def test_cleanup_knows_them_by_name_where_the_note_is_lost(a: Host, b: Host) -> None:
    a.stop()
    (hostlock.FOLDER / f"{namespace_of(a)}-0.programs").unlink()
    assert "fast path at eth0" in a.cleanup()
    assert programs(a) == []
    a.start()
    fast(a)


@pytest.mark.parametrize("link", ["eth0", "docker0", "overlay.1"])
def test_a_program_of_an_administrator_turns_it_off_and_is_left_where_it_is(a: Host, b: Host, link: str) -> None:
    descriptor = made(NOTHING)
    theirs = namespaces.inside(a.namespace, partial(attach, link, descriptor))
    assert f"another filter at interface {index_of(a, link)}: program {theirs}, ingress" in slow(a)
    # Who comes later to the programs comes after others'.
    restart(a)
    assert "another filter" in slow(a)
    row = namespaces.inside(a.namespace, lambda: tcx.read(socket.if_nametoindex(link), Direction.INGRESS))
    assert row is not None
    assert row.ids[0] == theirs
    namespaces.inside(a.namespace, lambda: tcx.detach(socket.if_nametoindex(link), Direction.INGRESS, theirs))
    fast(a)


def test_a_second_network_of_the_hosts_has_programs_beside_the_first_s(
    lab: Lab, a: Host, b: Host, tmp_path: Path
) -> None:
    configure(lab, {"Type": "vxlan", "Port": 8473})
    second = [SecondNetworkHost(lab, host, tmp_path, fast_path="auto", resync_s=2) for host in (a, b)]
    try:
        for host in second:
            host.start()
            host.start_container()
        for host in second:
            eventually("it is on", lambda host=host: host.status().get("fast_path") == "on")  # type: ignore[misc]
            eventually(
                "its container is on it",
                lambda host=host: filters(host, f"v{host.bridge}") == [f"v{host.bridge} ingress tcx overlayd_out"],  # type: ignore[misc]
            )
        assert filters(a, "eth0") == ["eth0 ingress tcx overlayd_in"] * 2
        all_arrives(second[0], second[1])
        with telling(a, b) as told:
            for host in second:
                host.stop()
                assert "fast path at eth0" in host.cleanup()
                eventually("the first network's are left", lambda host=host: sorted(programs(host)) == OURS)  # type: ignore[misc]
        assert told.lost == 0, told
        assert [host.status()["fast_path"] for host in (a, b)] == ["on", "on"]
    finally:
        for one in second:
            one.remove()
            one.run("sh", "-c", f"ip link delete {one.bridge} || true")


@pytest.fixture
def interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace of its own, with notes of its own."""
    monkeypatch.setattr(hostlock, "FOLDER", tmp_path)
    name = namespaces.unique("tcx")
    namespaces.make(name)
    yield name
    marks.use(0)
    namespaces.remove(name)


def test_networks_of_one_host_know_each_others_and_take_away_their_own_only(interface: str) -> None:
    def ids() -> list[tuple[int, bool, bool]]:
        return [(one.handle, one.ours, one.of_overlayd) for one in attached.read(1)]

    def check() -> None:
        with loaded() as one, loaded() as other:
            first, second = (tcx.id_of(each.program("overlayd_in")) for each in (one, other))
            attached.attach(1, Direction.INGRESS, "overlayd_in", one.program("overlayd_in"))
            marks.use(1)
            assert ids() == [(first, False, True)]
            attached.attach(1, Direction.INGRESS, "overlayd_in", other.program("overlayd_in"))
            assert ids() == [(first, False, True), (second, True, True)]
            assert "fast path at lo" in list(attached.cleanup())
            assert ids() == [(first, False, True)]
            marks.use(0)
            assert ids() == [(first, True, True)]

    namespaces.inside(interface, check)


@pytest.mark.parametrize("where", range(4))
def test_one_of_ours_is_replaced_and_taken_away_wherever_it_is_among_others(interface: str, where: int) -> None:
    others = [made(NOTHING) for _ in range(3)]

    def check() -> None:
        with loaded() as one, loaded() as other:
            for number in range(4):
                if number == where:
                    attached.attach(1, Direction.EGRESS, "overlayd_in", one.program("overlayd_in"))
                if number < 3:
                    tcx.attach(1, Direction.EGRESS, others[number])
            expected = [tcx.id_of(each) for each in others]
            for each in (one, other):
                # Noted by a daemon before this one, if it is the second.
                attached.attach(1, Direction.EGRESS, "overlayd_in", each.program("overlayd_in"))
                own = tcx.id_of(each.program("overlayd_in"))
                assert ids() == [*expected[:where], own, *expected[where:]]
            assert attached.detach(1)
            assert not attached.detach(1)
            assert ids() == expected

    def ids() -> list[int]:
        row = tcx.read(1, Direction.EGRESS)
        return list(row.ids) if row else []

    namespaces.inside(interface, check)


def test_a_note_of_another_boot_is_none(interface: str) -> None:
    program_ids.note({7})
    assert program_ids.of_ours() == {7}
    path = next(iter(hostlock.FOLDER.glob("*.programs")))
    path.write_text(path.read_text().replace('"boot": "', '"boot": "0'))
    assert program_ids.of_ours() == frozenset()
    path.write_text("[7")
    assert program_ids.of_ours() == frozenset()


def doctor(host: Host) -> str:
    return host.call("doctor", "--no-arp").stdout


def namespace_of(host: Host) -> int:
    return (Path("/run/netns") / host.namespace).stat().st_ino


def index_of(host: Host, link: str) -> int:
    return namespaces.inside(host.namespace, lambda: socket.if_nametoindex(link))


def loaded() -> Loaded:
    return Loaded(OBJECT.read_bytes())


def attach(link: str, descriptor: int) -> int:
    tcx.attach(socket.if_nametoindex(link), Direction.INGRESS, descriptor)
    return tcx.id_of(descriptor)
