"""With thousands of peers, what one of them brings about costs the writes of one; no second is counted here."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.testbed.netns.fleet import Fleet, routed
from tests.testbed.netns.lab import Host, laboratory
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

PEERS, MORE = 2000, 500
PORT = 9000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Fleet]]:
    """A host that starts among thousands of peers, and whose timer does nothing during the test."""
    with laboratory(tmp_path_factory.mktemp("many"), {"Type": "vxlan"}) as lab:
        fleet = Fleet(lab)
        fleet.join(range(PEERS))
        host = lab.host("a", start=False, settings={"resync-s": 60, "healthz-port": PORT, "probe-rate": 0})
        host.start()
        # The kernel tells of an address once it has seen that nobody else has it (RFC 4862, 5.4).
        eventually("addresses of IPv6 are decided", lambda: "tentative" not in host.run("ip", "-6", "address", "show"))
        yield host, fleet


def metric(host: Host, name: str) -> int:
    """A counter of the daemon's, of all its labels."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    text = inside(host.namespace, read)
    return sum(int(float(one)) for one in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def costs(host: Host, change: Callable[[], object], operations: int) -> tuple[int, int]:
    """How many looks at the whole kernel a change brought about, and how many operations: at least so many."""
    names = ("overlayd_whole_looks_total", "overlayd_kernel_operations_total")
    before = [metric(host, name) for name in names]
    change()
    # They are counted when they are done; the timer does not come at all.
    eventually("the daemon has served it", lambda: metric(host, names[1]) - before[1] >= operations)
    looks, done = (metric(host, name) - was for name, was in zip(names, before, strict=True))
    return looks, done


def test_the_whole_kernel_is_read_once_at_a_start(site: tuple[Host, Fleet]) -> None:
    host, _fleet = site
    # The device stays: a new one is told of, too, and may be heard of during the first look, which then counts as news.
    host.stop()
    host.run("ip", "route", "flush", "proto", "157")
    host.run("ip", "neighbour", "flush", "dev", "overlay.1", "nud", "permanent")
    host.start()
    assert len(host.run("ip", "route", "show", "proto", "157").splitlines()) == PEERS
    # The echoes of 4,000 writes are all heard, and none of them is news.
    assert metric(host, "overlayd_kernel_operations_total") >= 2 * PEERS
    assert metric(host, "overlayd_whole_looks_total") == 1


def test_who_comes_and_goes_costs_three_writes(site: tuple[Host, Fleet]) -> None:
    host, fleet = site
    assert costs(host, partial(routed, host.namespace, partial(fleet.join, [PEERS]), 1), 3) == (0, 3)
    assert costs(host, partial(routed, host.namespace, partial(fleet.leave, [PEERS]), 1, gone=True), 3) == (0, 3)


def test_hundreds_that_come_and_go_at_once_need_no_look_at_the_whole(site: tuple[Host, Fleet]) -> None:
    host, fleet = site
    more = range(PEERS, PEERS + MORE)
    assert costs(host, partial(routed, host.namespace, partial(fleet.join, more), MORE), 3 * MORE) == (0, 3 * MORE)
    assert costs(host, partial(routed, host.namespace, partial(fleet.leave, more), MORE, gone=True), 3 * MORE)[0] == 0


def test_a_route_that_somebody_deletes_is_written_again_alone(site: tuple[Host, Fleet]) -> None:
    host, _fleet = site
    deletes = partial(host.run, "ip", "route", "delete", "10.0.7.0/24")
    assert costs(host, partial(routed, host.namespace, deletes, 1), 1) == (0, 1)
