"""If the kernel is in the desired state, a second look writes nothing: the tests count netlink messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd import backends
from overlayd.errors import NetworkConfigError, UnsupportedError
from overlayd.kernel.converge import ConvergeReport
from tests.kernel.stage import host
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.namespaces import inside
from tests.testbed.netns.netlink_events import NetlinkListener, requests
from tests.testbed.polling import eventually
from tests.unit.kernel.scenes import IPV4_ONLY, Peer, Scene

# These devices exist on every machine that runs the tests; the others are tested where the kernel has them.
EVERYWHERE = {
    *(("vxlan", True), ("vxlan", False), ("host-gw", True), ("host-gw", False), ("auto", True), ("auto", False)),
    *(("udp", False), ("alloc", False), ("alloc", True)),
}
PEERS = {number: Peer(number=number, near=number % 2 == 0) for number in range(2, 8)}
RESYNC_S = 0.5
RESYNCS = 4


def cases() -> list[tuple[str, bool]]:
    """Each backend with IPv4, IPv6 and both, except for combinations that the backend refuses."""
    return [(name, dual) for name in backends.names() for dual in (False, True) if not (dual and name in IPV4_ONLY)]


@pytest.mark.parametrize(("name", "dual"), cases(), ids=lambda value: {True: "dual", False: "IPv4"}.get(value, value))
def test_a_second_apply_reads_and_changes_nothing(name: str, dual: bool, tmp_path: Path) -> None:
    scene = Scene(kind=name, versions=(4, 6) if dual else (4,), blackhole=True, peers=PEERS)
    try:
        backend = scene.backend(tmp_path)
        backend.lease_data(4)
    except NetworkConfigError as error:
        assert (name, dual) not in EVERYWHERE
        pytest.skip(error.message)
    with host() as namespace, NetlinkListener(namespace) as listener:

        def apply() -> ConvergeReport:
            return backend.apply(scene.own_lease(), scene.peer_leases())

        try:
            inside(namespace, lambda: backend.open(scene.own_lease()))
        except UnsupportedError as error:
            assert (name, dual) not in EVERYWHERE
            pytest.skip(error.message)
        try:
            with requests() as first:
                report = inside(namespace, apply)
            assert report.problems == ()
            # This shows that the counter below sees writes.
            assert listener.events()
            # Not counted: what the extension backend's commands write, and what goes to wireguard-go's socket.
            assert name in ("extension", "wireguard") or bool(changes(first)) == bool(report.written)
            with requests() as second:
                assert inside(namespace, apply).written == 0
            assert changes(second) == []
            assert {"get link", "get route"} <= set(second)
            assert listener.events() == []
        finally:
            backend.close()


def changes(sent: list[str]) -> list[str]:
    """The requests that are not dumps or gets."""
    return [words for words in sent if not words.startswith("get ")]


LABS = {
    "vxlan": ({"Type": "vxlan"}, False),
    "vxlan, dual stack": ({"Type": "vxlan"}, True),
    "host-gw": ({"Type": "host-gw"}, False),
    "auto, dual stack": ({"Type": "auto"}, True),
    "udp": ({"Type": "udp"}, False),
    "alloc": ({"Type": "alloc"}, False),
}


@pytest.fixture(scope="module", params=list(LABS))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with hosts a and b, which look at their kernels twice a second."""
    backend, dual = LABS[request.param]
    with laboratory(tmp_path_factory.mktemp("quiet"), backend, dual=dual) as lab:
        for name in ("a", "b"):
            made = lab.host(name, start=False, settings={"resync-s": RESYNC_S, "ip-blackhole-route": True})
            made.start()
            made.start_container()
        yield lab


def settled(host: Host) -> bool:
    """Whether a host is ready and serves its peer."""
    status = host.status()
    served = [peer["problem"] for peer in status.get("peers", ())] == [None]
    # The container is told of when it was entered.
    return status.get("state") == "ready" and served and status.get("probed_from") is not None


def test_a_running_daemon_that_looks_again_and_again_changes_nothing(lab: Lab) -> None:
    a = lab.hosts[0]
    for one in lab.hosts:
        eventually(f"{one.name} knows the other", lambda one=one: settled(one))  # type: ignore[misc]
    with NetlinkListener(a.namespace) as listener:

        def quiet() -> bool:
            before = status_file(a)
            return listener.events(within_s=2.5) == [] and status_file(a) == before

        # Wait until the start of the container has no more effects: duplicate address detection takes up to 2 s.
        eventually("a moment without news", quiet)
        log, rules, began, written = a.log.read_text(), kept_rules(a), looks(a), status_file(a)
        assert listener.events(within_s=RESYNCS * RESYNC_S) == []
        assert a.log.read_text() == log
        assert kept_rules(a) == rules
        assert status_file(a) == written
        assert looks(a) >= began + RESYNCS, "the daemon has not looked"
        # This shows that a write would have been seen: a deleted route is restored, and both changes are notified.
        listener.events()
        a.run("ip", "route", "delete", "blackhole", str(a.subnet))
        events: list[str] = []

        def is_back() -> bool:
            events.extend(listener.events(within_s=1))
            return "new route" in events

        eventually("the route is back", is_back)
        assert "delete route" in events


def kept_rules(host: Host) -> list[str]:
    """A host's iptables rules. A rewrite with the same text does not show here, only in notifications."""
    return [line for line in host.run("iptables-save").splitlines() if line.startswith("-A")]


def status_file(host: Host) -> tuple[int, str]:
    """A host's status; another inode shows that it was written again, as by two writers in turn."""
    path = host.run_dir / "status.json"
    return path.stat().st_ino, path.read_text()


def looks(host: Host) -> int:
    """How often the daemon's main thread went to sleep; this grows by several each time it wakes to look."""
    for line in Path(f"/proc/{host.status()['pid']}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "voluntary_ctxt_switches":
            return int(value)
    raise AssertionError("no voluntary_ctxt_switches in proc(5)")
