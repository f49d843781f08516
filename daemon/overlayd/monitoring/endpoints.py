"""The responses of /healthz, /readyz and /metrics, made from values. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from overlayd.lib.counters import families
from overlayd.lib.exposition import CONTENT_TYPE, exposition
from overlayd.lib.quick_dataclass import dataclass
from overlayd.monitoring.metrics import Process, process_families, status_families
from overlayd.monitoring.readiness import checks
from overlayd.monitoring.state import Status


@dataclass(frozen=True, kw_only=True)
class Response:
    """An answer: HTTP status code, content type, text."""

    code: int
    content_type: str
    text: str


Endpoints = Mapping[str, Callable[[], Response]]
"""What answers each path."""


def healthz(rounds: Mapping[str, str | None]) -> Response:
    """200 while every loop of the daemon is on time. etcd away, a refused route: no reason to restart a daemon."""
    return _verdict("healthy", rounds)


def readyz(status: Status, late: Sequence[str]) -> Response:
    """200 only while no check has a problem: of etcd, lease, data path, peers and docker (readiness.py)."""
    return _verdict("ready", {check.name: check.problem for check in checks(status, late=late)})


def metrics(status: Status, late: Sequence[str], process: Process) -> Response:
    """All metrics, in Prometheus' text format."""
    found = [*status_families(status, late=late), *process_families(status, process), *families()]
    return Response(code=200, content_type=CONTENT_TYPE, text=exposition(found))


def _verdict(name: str, problems: Mapping[str, str | None]) -> Response:
    """200 or 503 with the checks as JSON; `name` is what they are about together."""
    well = not any(problems.values())
    document = {name: well, "checks": {name: problem or "ok" for name, problem in problems.items()}}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return Response(code=200 if well else 503, content_type="application/json; charset=utf-8", text=text)
