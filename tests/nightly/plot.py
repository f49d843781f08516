"""Plots of ratios over nights, as inline SVG by pygal. The page's style sheet has fonts and colours. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import pygal

from tests.nightly.ratios import Ratio

# pygal puts a finder of Python 2's kind before all imports, for maps that we do not have; Python 3.11 warns of it then.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

_WIDTH, _HEIGHT = 300, 96
_SVG = "http://www.w3.org/2000/svg"
# pygal's script and style, its tooltips, and texts for these. A page has dozens of plots.
_UNUSED_TAGS = ("defs", "desc", "title")
_UNUSED_CLASSES = ("text-overlay", "tooltip-overlay", "titles")


def over_nights(ratios: Sequence[Ratio | None], dates: Sequence[str]) -> str:
    """A line of the medians between lines of the extremes, oldest first; a gap for a night that has none.

    It is hidden from screen readers: whoever includes it describes it. Series have the classes `serie-0` (lowest),
    `serie-1` (highest), `serie-2` (median), and `serie-3` (the last night, as a dot).
    """
    highest = max((one.highest for one in ratios if one), default=1.0)
    scale = _scale(highest)
    chart = pygal.Line(
        js=[],
        css=[],
        explicit_size=False,
        width=_WIDTH,
        height=_HEIGHT,
        margin=2,
        margin_top=6,
        show_legend=False,
        allow_interruptions=True,
        range=(0, max(scale[-1], highest)),
        y_labels=scale,
        show_minor_x_labels=False,
        truncate_label=-1,
    )
    chart.x_labels = list(dates)
    chart.x_labels_major = [dates[0], dates[-1]] if dates else []
    for name in ("lowest", "highest", "median"):
        chart.add(name, [getattr(one, name) if one else None for one in ratios], show_dots=False)
    if ratios and (last := ratios[-1]):
        chart.add("last", [*[None] * (len(ratios) - 1), last.median], dots_size=3)
    # ElementTree's writer keeps the document's default namespace by this.
    ET.register_namespace("", _SVG)
    root: ET.Element = chart.render_tree()
    _prune(root)
    for name in ("id", "xmlns"):
        root.attrib.pop(name, None)
    root.set("aria-hidden", "true")
    return ET.tostring(root, encoding="unicode")


def _prune(element: ET.Element) -> None:
    for child in list(element):
        # A comment's tag is a function.
        tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else "defs"
        if tag in _UNUSED_TAGS or set(child.get("class", "").split()) & set(_UNUSED_CLASSES):
            element.remove(child)
        else:
            _prune(child)


def _scale(highest: float) -> list[float]:
    """Zero, the middle and the top, as round numbers."""
    steps = (10.0**power * factor for power in range(-4, 12) for factor in (1, 2, 5))
    # A little above the top line is no reason for a scale of twice the height.
    step = next((one for one in steps if highest <= 2.2 * one), highest / 2)
    return [0, step, 2 * step]
