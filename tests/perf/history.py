"""Earlier reports of the bench: where they are kept, and which of them a new one is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.perf.compare import comparable

LATEST = "bench.json"
# Enough to plot a month of nights.
KEPT = 40


def last(build: Path, now: dict[str, Any]) -> tuple[dict[str, Any], Path] | None:
    """The newest report below build/bench and build/nightly of this machine and layout that has the same parts.

    None where there is none. A file that cannot be read is none.
    """
    found = []
    for path in (*(build / "bench").rglob("*.json"), *(build / "nightly").rglob("*.json")):
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if comparable(document, now) and set(now["parts"]) <= set(document["parts"]) and document["when"] < now["when"]:
            found.append((document["when"], path, document))
    if not found:
        return None
    _, path, document = max(found, key=lambda one: one[0])
    return document, path


def keep(folder: Path, document: dict[str, Any]) -> Path:
    """Write a report as the latest one and by its time, each whole or not at all; its path. The oldest go."""
    reports = folder / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    latest = folder / LATEST
    for path in (reports / f"{document['when'].replace(':', '')}.json", latest):
        half = path.with_name(f".{path.name}.half")
        half.write_text(text)
        half.rename(path)
    for old in sorted(reports.glob("*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return latest
