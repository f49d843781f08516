"""What is served, as values: the path says which page, the daemon's state says what stands on it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overlayd.lib.counters import families
from overlayd.lib.exposition import CONTENT_TYPE, exposition
from overlayd.monitoring.metrics import Process, process_families, status_families
from overlayd.monitoring.readiness import checks
from overlayd.monitoring.state import Status


@dataclass(frozen=True, kw_only=True)
class Page:
    """An answer: HTTP status code, content type, text."""

    code: int
    content_type: str
    text: str


def healthz(rounds: Mapping[str, str | None]) -> Page:
    """200 while every loop of the daemon is on time. etcd away, a refused route: no reason to restart a daemon."""
    return _verdict("healthy", rounds)


def readyz(status: Status, late: Sequence[str]) -> Page:
    """200 only when etcd is seen, the lease is held, the data path is whole, every peer programmed, docker in line."""
    return _verdict("ready", {check.name: check.problem for check in checks(status, late=late)})


def metrics_page(status: Status, late: Sequence[str], process: Process) -> Page:
    """Everything that there is to count or measure."""
    found = [*status_families(status, late=late), *process_families(status, process), *families()]
    return Page(code=200, content_type=CONTENT_TYPE, text=exposition(found))


def _verdict(word: str, problems: Mapping[str, str | None]) -> Page:
    well = not any(problems.values())
    document = {word: well, "checks": {name: problem or "ok" for name, problem in problems.items()}}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return Page(code=200 if well else 503, content_type="application/json; charset=utf-8", text=text)
