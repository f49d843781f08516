"""A figure that is more than 20 % worse than in the last report of the same machine and parts is marked."""

from __future__ import annotations

import copy
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.perf import history
from tests.perf import report as tables
from tests.perf.compare import marked, merit
from tests.perf.layout import DAEMON_FIGURES, FIGURES, MANY_FIGURES
from tests.unit.perf.reports import report

NOW = "2026-12-01T03:00:00+00:00"


def figures(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["places"]["namespaces"]["subjects"]["vxlan"]["figures"]
    return found


def shown(document: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=200)
    tables.show(console, document)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("before", "now", "more_is_better", "expected"),
    [
        (1.0, 0.5, True, 0.5),
        (1.0, 2.0, False, 0.5),
        (0.5, 1.0, True, 2.0),
        (2.0, 1.0, False, 2.0),
        (0.0, 1.0, True, None),
    ],
)
def test_merit_is_above_one_where_it_got_better(
    before: float, now: float, more_is_better: bool, expected: float | None
) -> None:
    assert merit(before, now, more_is_better=more_is_better) == expected


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
@pytest.mark.parametrize(("worse_by", "falls"), [(0.19, False), (0.21, True)])
def test_a_part_that_is_a_fifth_worse_is_marked(figure: Any, worse_by: float, falls: bool) -> None:
    before, now = report(), report(NOW)
    part = figures(now)[figure.key]["part"]
    part["median"] *= 1 - worse_by if figure.more_is_better else 1 / (1 - worse_by)
    found = marked(now, before, "build/bench/bench.json")
    assert [one["figure"] for one in found["falls"]] == ([figure.key] if falls else [])
    assert bool(figures(found)[figure.key]["fall"]) is falls
    assert ("FELL" in shown(found)) is falls


def test_a_value_that_fell_with_the_underlays_is_not_marked() -> None:
    now = report(NOW)
    for figure in figures(now).values():
        for what in ("value", "bare"):
            figure[what]["median"] /= 3
    assert marked(now, report())["falls"] == []


def test_memory_is_compared_as_it_is_and_durations_are_not() -> None:
    now = report(NOW)
    daemon = now["places"]["namespaces"]["daemon"]
    for key in ("pss_bytes", "start_to_ready_s"):
        daemon[key]["value"]["median"] *= 3
    found = marked(now, report())
    assert [(one["subject"], one["figure"]) for one in found["falls"]] == [("daemon", "pss_bytes")]
    assert daemon["pss_bytes"]["fall"] == {"value_before": 30e6, "merit": 0.333}


def test_what_one_of_the_two_lacks_is_not_compared() -> None:
    now = report(NOW)
    figures(now)["tcp_1_flow_gbit_s"] = {"reason": "nothing arrived"}
    before = copy.deepcopy(report())
    del before["places"]["namespaces"]["daemon"]
    assert marked(now, before)["falls"] == []
    assert "nothing arrived" in shown(now)


def test_a_first_report_says_so() -> None:
    found = marked(report(NOW), None)
    assert (found["compared_with"], found["falls"]) == (None, [])
    assert "nothing to compare with" in shown(found)


def test_a_doctored_last_report_leads_to_a_mark(tmp_path: Path) -> None:
    last = report()
    figures(last)["udp_200_byte_packets_per_s"]["part"]["median"] = 0.9
    history.keep(tmp_path / "bench", last)
    now = report(NOW)
    before, path = history.last(tmp_path, now) or (None, None)
    found = marked(now, before, str(path))
    assert [one["figure"] for one in found["falls"]] == ["udp_200_byte_packets_per_s"]
    text = shown(found)
    assert "was 0.9, is 0.5, 44% worse" in text
    assert last["when"] in text


@pytest.mark.parametrize(
    "change",
    [{"machine": {"cpus": 4}}, {"layout": 0}, {"parts": ["namespaces"]}, {"when": "2027-01-01T00:00:00+00:00"}],
    ids=lambda change: next(iter(change)),
)
def test_reports_of_others_are_passed_by(tmp_path: Path, change: dict[str, Any]) -> None:
    history.keep(tmp_path / "bench", report() | change)
    assert history.last(tmp_path, report(NOW)) is None


def test_the_newest_of_bench_and_nightly_is_taken_and_a_broken_file_is_passed_by(tmp_path: Path) -> None:
    history.keep(tmp_path / "bench", report("2026-11-01T00:00:00+00:00"))
    newer = tmp_path / "nightly/runs/bench.json"
    newer.parent.mkdir(parents=True)
    newer.write_text(json.dumps(report("2026-11-02T00:00:00+00:00")))
    (newer.parent / "half.json").write_text("{")
    (newer.parent / "list.json").write_text("[]")
    found = history.last(tmp_path, report(NOW))
    assert found is not None
    assert found[1] == newer


def test_old_reports_go(tmp_path: Path) -> None:
    for day in range(history.KEPT + 3):
        history.keep(tmp_path, report(f"2026-01-01T00:00:{day:02}+00:00"))
    kept = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert len(kept) == history.KEPT
    assert kept[0].startswith("2026-01-01T000003")


def test_every_row_of_the_tables_has_figures_or_a_reason() -> None:
    text = shown(marked(report(NOW), None))
    for word in ("vxlan", "mtu 1450", "not installed: tincd", "0.50 (0.50 to 0.50)", "no smaps_rollup", "30,000,000"):
        assert word in text
    for figure in (*DAEMON_FIGURES, *MANY_FIGURES):
        assert figure.title in text
    assert "8.5 (8.5 to 8.5)" in text
