"""The Grafana dashboard that the RPM ships, as values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "rpm/monitoring/overlayd-dashboard.json"


def document() -> dict[str, Any]:
    """The whole dashboard."""
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Its panels, rows among them."""
    found: list[dict[str, Any]] = document()["panels"]
    return found


def expressions() -> list[tuple[str, str]]:
    """The title of its panel, and the PromQL expression, of every target."""
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", ())]


def filled(expr: str, *, job: str = ".*", instance: str = ".*", interval: str = "1m") -> str:
    """An expression with the dashboard's variables filled in, as Grafana does."""
    for name, value in (("$job", job), ("$instance", instance), ("$__rate_interval", interval)):
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr
