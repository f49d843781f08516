"""The bench's part about many peers and daemons has a value for each of its figures; here with few of them."""

from __future__ import annotations

from tests.perf import many
from tests.perf.layout import MANY_FIGURES


def test_every_figure_is_measured() -> None:
    said: list[str] = []
    found = many.measure(said.append, repeat=1, idle_s=1, scale=many.Scale(peers=40, burst=10, daemons=3))
    assert said == ["namespaces: 40 peers", "namespaces: 3 daemons at once"]
    for figure in MANY_FIGURES:
        assert "value" in found["many"][figure.key], figure.key
