"""A bar plot as inline SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 150, 460, 16, 14, 8
# Room for the widest text after a bar, `123.45 Gb/s (123.45 to 123.45)`, in the page's 12 pixels.
_VALUE_ROOM = 230


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar with its lowest and highest value; `kind` is the CSS class for its colour."""

    label: str
    kind: str
    value: float
    lowest: float
    highest: float


def bars(groups: Sequence[Sequence[Bar]], unit: str) -> str:
    """Groups of horizontal bars on one scale, each with a line from its lowest to its highest value."""
    scale = max((bar.highest for group in groups for bar in group), default=0.0) or 1.0
    parts: list[str] = []
    y = _TOP
    for group in groups:
        for bar in group:
            middle = y + _BAR / 2
            end = _x(bar.value, scale)
            parts.append(f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>')
            parts.append(f'<rect class="{bar.kind}" x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR}"/>')
            low, high = _x(bar.lowest, scale), _x(bar.highest, scale)
            parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
            text = f"{bar.value:.2f} {unit} ({bar.lowest:.2f} to {bar.highest:.2f})"
            parts.append(f'<text x="{max(high, end) + 6:.1f}" y="{middle + 4}">{escape(text)}</text>')
            y += _BAR + 4
        y += _GAP
    width = _LEFT + _WIDTH + _VALUE_ROOM
    title = f"<title>{escape(unit)} for every backend beside the underlay</title>"
    return f'<svg viewBox="0 0 {width} {y}" width="{width}" role="img">{title}{"".join(parts)}</svg>'


def _x(value: float, scale: float) -> float:
    return _LEFT + _WIDTH * max(value, 0.0) / scale
