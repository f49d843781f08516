"""The nightly page is complete and self-contained, and shows what failed."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from tests.nightly.junit import summarize
from tests.nightly.page import page
from tests.nightly.plot import Bar, bars

JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest">
<testcase classname="tests.unit.leases.test_lease" name="test_a" time="0.5"><properties>
<property name="pings lost, dockerd restarted" value="0 of 400"/></properties></testcase>
<testcase classname="tests.kernel.test_packets" name="test_b[vxlan]" time="2.0">
<failure message="assert 1 &lt; 0">long</failure></testcase>
<testcase classname="tests.kernel.test_packets" name="test_c" time="0.0"><skipped message="needs root"/></testcase>
<testcase classname="tests.unit.leases.test_lease" name="test_d" time="1.0"/>
<testcase classname="tests.unit.leases.test_lease" name="test_d" time="0.1"><error message="teardown broke"/></testcase>
</testsuite></testsuites>"""


def _spread(value: float) -> dict[str, float]:
    return {"median": value, "lowest": value / 2, "highest": value * 2, "count": 3}


def _pair(source: str, target: str, received: int) -> dict[str, Any]:
    ping = {"sent": 5, "received": received, "average_ms": 0.25 if received else None, "maximum_ms": None}
    return {"source": source, "target": target, "ping": ping, "gbit_s": 7.25}


BENCH: dict[str, Any] = {
    "machine": {"cpus": 2, "kernel": "6.1", "docker": "28.0", "base": "some<base>"},
    "start": {"steps_s": {"hosts": 1.5}, "hosts_to_docker_s": 8.25, "whole_s": 12.0, "hosts": {}},
    "backends": {
        "vxlan": {
            "gbit_s": _spread(7.0),
            "underlay_gbit_s": _spread(8.5),
            "part": _spread(0.82),
            "round_trip_ms": 0.3,
            "underlay_round_trip_ms": None,
            "mtu_bytes": 1450,
            "pairs": [_pair("host1", "host2", 5), _pair("host2", "host1", 0)],
        }
    },
}


class _Tags(HTMLParser):
    """Checks that tags are closed in order, and collects the URLs that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag


def _read(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    return tags


def test_junit_is_counted_by_folder_and_a_broken_teardown_once() -> None:
    tests = summarize(JUNIT)
    assert (tests.total, tests.passed, tests.failed, tests.skipped) == (4, 1, 2, 1)
    assert tests.groups["tests.kernel"][:2] == (0, 2)
    assert tests.groups["tests.unit"][:2] == (1, 2)
    assert [case.outcome for case in tests.cases] == ["failed", "skipped", "error"]


def test_page_is_one_well_formed_document_that_fetches_nothing() -> None:
    text = page(tests=summarize(JUNIT), bench=BENCH, when="2026-11-24 03:00 UTC", commit="abc")
    assert _read(text).fetched == []
    assert "url(" not in text
    assert "<script" not in text


def test_page_shows_matrix_rates_and_failures() -> None:
    text = page(tests=summarize(JUNIT), bench=BENCH, when="tonight", commit="abc")
    for expected in ("unreachable", "0.25 ms, 7.25 Gb/s", "assert 1 &lt; 0", "some&lt;base&gt;", "<svg", "not well"):
        assert expected in text


def test_page_shows_builds_beside_their_time_limits() -> None:
    builds = {"from <nothing>": {"s": 299.96, "limit_s": 300}, "unchanged": {"s": 2.01, "limit_s": 2}}
    text = page(tests=None, bench=BENCH | {"builds": builds}, when="tonight", commit="abc")
    assert _read(text).fetched == []
    assert '<td>from &lt;nothing&gt;</td><td class="ok n">300.0</td><td class="n">300</td>' in text
    assert '<td>unchanged</td><td class="bad n">2.0</td><td class="n">2</td>' in text


def test_page_without_figures_says_so() -> None:
    text = page(tests=None, bench=None, when="tonight", commit="abc")
    _read(text)
    assert "no figures" in text
    assert "pytest wrote no result" in text


def test_longest_bar_fills_the_plot() -> None:
    bar = Bar(label="a", kind="overlay", value=4.0, lowest=3.0, highest=4.0)
    assert 'width="460.0"' in bars([[bar]], "Gb/s")


def test_plot_of_nothing_is_still_a_plot() -> None:
    assert bars([], "Gb/s").startswith("<svg")


def test_what_tests_measured_is_on_the_page() -> None:
    found = page(tests=summarize(JUNIT), bench=None, when="today", commit="abc")
    assert "pings lost, dockerd restarted" in found
    assert "0 of 400" in found
