"""Metrics as text: Prometheus' exposition format, version 0.0.4. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from overlayd.lib.quick_dataclass import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One metric: `kind` is counter or gauge; each sample has its labels and its value."""

    name: str
    kind: str
    text: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def family(kind: str, name: str, text: str, value: float, **labels: str) -> Family:
    """A metric with one sample."""
    return Family(name=name, kind=kind, text=text, samples=((labels, value),))


def exposition(families: Iterable[Family]) -> str:
    """The whole document, by name; a metric without a sample is left out."""
    lines: list[str] = []
    for one in sorted(families, key=lambda one: one.name):
        if one.samples:
            lines.append(f"# HELP {one.name} {_escaped(one.text)}")
            lines.append(f"# TYPE {one.name} {one.kind}")
            lines += [f"{one.name}{_labels(labels)} {_number(value)}" for labels, value in one.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_quotable(value)}"' for name, value in labels.items())
    return f"{{{inside}}}"


def _number(value: float) -> str:
    # As Python writes it; but a count is a whole number, however large.
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quotable(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
