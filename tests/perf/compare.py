"""What is worse than in the last report. Pure: documents in, documents out.

Compared are parts of the bare underlay, as these are alike on a busy machine and on a quiet one; of absolute values
only memory is. `merit` is how good the figure is beside the one before: the quotient of the two, turned over where
less is better. Below 0.8 it is a fall of more than 20 % and is marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.perf.layout import COMPARED_ABSOLUTELY, DAEMON_FIGURES, FIGURES, LAYOUT, Figure

FALL = 0.8


def merit(before: float, now: float, *, more_is_better: bool) -> float | None:
    """The quotient by which it changed, above 1 where it got better; None where there is nothing to divide by."""
    above, below = (now, before) if more_is_better else (before, now)
    return above / below if below > 0 else None


def comparable(before: Any, now: dict[str, Any]) -> bool:
    """Whether a document has this layout and comes from the same machine."""
    return isinstance(before, dict) and before.get("layout") == LAYOUT and before.get("machine") == now["machine"]


def marked(now: dict[str, Any], before: dict[str, Any] | None, path: str = "") -> dict[str, Any]:
    """The document with each fall marked in its figure and listed in `falls`; `path` is where the report before is."""
    falls = []
    if before is not None:
        for place, subject, key, more_is_better, found, last in _pairs(now, before):
            part = "part" if "part" in found else "value"
            if part not in last:
                continue
            old, new = last[part]["median"], found[part]["median"]
            quotient = merit(old, new, more_is_better=more_is_better)
            if quotient is not None and quotient < FALL:
                found["fall"] = {f"{part}_before": old, "merit": round(quotient, 3)}
                fall = {"place": place, "subject": subject, "figure": key, "before": old, "now": new}
                falls.append(fall | {"merit": round(quotient, 3)})
    now["falls"] = falls
    now["compared_with"] = (
        None if before is None else {"when": before["when"], "commit": before["commit"], "path": path}
    )
    return now


def _pairs(
    now: dict[str, Any], before: dict[str, Any]
) -> Iterator[tuple[str, str, str, bool, dict[str, Any], dict[str, Any]]]:
    """Each figure that both documents have a value of."""
    for place, found in now["places"].items():
        last = before["places"].get(place, {})
        tables: list[tuple[str, Any, Any, tuple[Figure, ...]]] = [
            (name, one["figures"], last.get("subjects", {}).get(name, {}).get("figures", {}), FIGURES)
            for name, one in found["subjects"].items()
        ]
        absolute = tuple(figure for figure in DAEMON_FIGURES if figure.key in COMPARED_ABSOLUTELY)
        tables.append(("daemon", found.get("daemon", {}), last.get("daemon", {}), absolute))
        for name, figures, old, wanted in tables:
            for figure in wanted:
                one, other = figures.get(figure.key, {}), old.get(figure.key, {})
                if "value" in one and "value" in other:
                    yield place, name, figure.key, figure.more_is_better, one, other
