"""Counters and gauges of this process, each made where its events happen: `WRITES = counter("overlayd_…_total", "…")`.

What follows from the status is not kept here a second time: see metrics.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from overlayd.lib.exposition import Family


class Instrument:
    """A number, or one number for each value of a label. Any thread may read; only one adds.

    `values` has them by the label's value, or under the empty string where there is no label. A place that counts
    packets may add to it directly.
    """

    def __init__(self, kind: str, name: str, text: str, *, label: str, values: dict[str, float]) -> None:
        self.name = name
        self.values = values
        self._kind = kind
        self._text = text
        self._label = label

    def add(self, amount: float = 1, *, of: str = "") -> None:
        """Count."""
        self.values[of] = self.values.get(of, 0) + amount

    def set(self, value: float, *, of: str = "") -> None:
        """Replace the number."""
        self.values[of] = value

    def family(self) -> Family:
        """The metric with its present values."""
        samples = tuple(({self._label: of} if self._label else {}, value) for of, value in dict(self.values).items())
        return Family(name=self.name, kind=self._kind, text=self._text, samples=samples)


_metrics: dict[str, Instrument] = {}


def counter(name: str, text: str, *, label: str = "", known: Iterable[str] = ()) -> Instrument:
    """A new counter from 0; with a label, those of its values that are `known` are there from the beginning.

    Prometheus' conventions: the name begins with overlayd_ and ends with the unit and _total.
    """
    return _registered(
        Instrument("counter", name, text, label=label, values=dict.fromkeys(known if label else ("",), 0.0))
    )


def gauge(name: str, text: str, *, label: str = "") -> Instrument:
    """A new gauge; it is not shown before it was set, nor is a value of its label."""
    return _registered(Instrument("gauge", name, text, label=label, values={}))


def families() -> tuple[Family, ...]:
    """All metrics with their present values."""
    return tuple(metric.family() for metric in list(_metrics.values()))


def _registered(metric: Instrument) -> Instrument:
    if metric.name in _metrics:
        raise ValueError(f"{metric.name} is counted in two places")
    _metrics[metric.name] = metric
    return metric
