"""The Grafana dashboard and the alert rules: they use metrics that the daemon has, and the dashboard is well-formed."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

from images.engine.place import ROOT
from overlayd.lib import counters
from overlayd.monitoring import metrics
from overlayd.monitoring.metrics import Process
from overlayd.monitoring.state import Reach, Status
from rpm import source
from rpm.freeze import freeze
from tests.testbed import dashboard
from tests.testbed.dashboard import document, expressions, filled, panels

ALERTS = ROOT / "rpm/monitoring/overlayd-alerts.yml"
# Grafana's grid is so many units wide.
WIDTH = 24
# Panels that every Grafana has.
KINDS = {"row", "stat", "table", "timeseries"}
_METRIC = re.compile(r"\b((?:overlayd|process)_[a-z_0-9]+)\b(?!\()")


def exported() -> set[str]:
    """Every metric that a daemon can have."""
    for name in freeze.modules(ROOT / source.DAEMON):
        if name != "overlayd.__main__":
            importlib.import_module(name)
    status = Status(
        state="ready",
        pid=1,
        version="1",
        started_at_s=1.0,
        subnet="10.5.1.0/24",
        probed_from="10.5.1.2",
        reach=(Reach(subnet="10.5.2.0/24", public_ip="198.18.1.2"),),
    )
    process = Process(cpu_s=1, resident_bytes=1, threads=1, python="3", clock_s=1)
    families = (*metrics.status_families(status), *metrics.process_families(status, process), *counters.families())
    return {family.name for family in families}


@pytest.mark.parametrize("path", [dashboard.PATH, ALERTS], ids=lambda path: path.suffix)
def test_every_metric_that_is_asked_for_is_one_that_the_daemon_has(path: Path) -> None:
    text = json.dumps(expressions()) if path == dashboard.PATH else path.read_text()
    asked = set(_METRIC.findall(text))
    assert asked
    assert asked - exported() == set()


def test_it_needs_no_plugin_and_every_panel_says_what_it_shows() -> None:
    assert {panel["type"] for panel in panels()} == KINDS
    for panel in panels():
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith("."), panel["title"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= WIDTH, panel["title"]
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"], cell


def test_everything_follows_the_chosen_data_source_job_and_host() -> None:
    variables = {one["name"]: one for one in document()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    asking = [*panels(), variables["job"], variables["instance"], *document()["annotations"]["list"]]
    asking += [target for panel in panels() for target in panel.get("targets", ())]
    for one in asking:
        if one.get("type") != "row":
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for title, expr in expressions():
        selectors = re.findall(r"\b(?:(?:overlayd|process)_[a-z_]+|up)\b\{([^}]*)\}", expr)
        assert len(selectors) == len(_METRIC.findall(expr)) + len(re.findall(r"\bup\b", expr)), expr
        assert all('job=~"$job"' in one for one in selectors), title
    host_row = next(panel["gridPos"]["y"] for panel in panels() if panel["title"] == "Host $instance")
    for panel in panels():
        below = panel["gridPos"]["y"] > host_row
        assert all(('instance=~"$instance"' in target["expr"]) == below for target in panel.get("targets", ()))


def test_targets_of_a_panel_have_references_of_their_own() -> None:
    for panel in panels():
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(references) == len(set(references)), panel["title"]
        # A table shows one moment, a graph many.
        assert all(target["instant"] == (panel["type"] != "timeseries") for target in panel.get("targets", ()))


@pytest.mark.slow
def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:number{number}", "expr": filled(expr)} for number, (_title, expr) in enumerate(expressions())
    ]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert (done.returncode, f"{len(rules)} rules found" in done.stdout) == (0, True), done.stdout + done.stderr
