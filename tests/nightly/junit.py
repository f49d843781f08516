"""A summary of pytest's JUnit XML. Pure: text in, values out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree as ET


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test that did not pass: its outcome is `failed`, `error` or `skipped`."""

    name: str
    outcome: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a run of tests. `groups` has for each folder how many passed, of how many, in how many seconds.

    `figures` are values that tests recorded (record_property): the test, the name, and the value.
    """

    total: int
    duration_s: float
    groups: dict[str, tuple[int, int, float]]
    cases: tuple[Case, ...]
    figures: tuple[tuple[str, str, str], ...] = ()

    @property
    def failed(self) -> int:
        """How many failed or had an error."""
        return sum(case.outcome != "skipped" for case in self.cases)

    @property
    def skipped(self) -> int:
        """How many were skipped."""
        return sum(case.outcome == "skipped" for case in self.cases)

    @property
    def passed(self) -> int:
        """How many passed."""
        return self.total - self.failed - self.skipped


_OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}


def merged(texts: Iterable[str]) -> str:
    """One JUnit document of several: all their suites. Raises ET.ParseError where one is none."""
    root = ET.Element("testsuites")
    for text in texts:
        root.extend(ET.fromstring(text).iter("testsuite"))
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def summarize(text: str) -> Summary:
    """The summary of a JUnit document. Raises ET.ParseError if it is not XML."""
    root = ET.fromstring(text)
    groups: dict[str, tuple[int, int, float]] = {}
    cases: dict[str, Case] = {}
    names: set[str] = set()
    duration_s = 0.0
    figures: list[tuple[str, str, str]] = []
    for element in root.iter("testcase"):
        folder = ".".join(element.get("classname", "").split(".")[:2]) or "other"
        name = f"{element.get('classname', '')}::{element.get('name', '')}"
        seconds = float(element.get("time", 0))
        duration_s += seconds
        figures += [(name, one.get("name", ""), one.get("value", "")) for one in element.iter("property")]
        found = next((child for child in element if child.tag in _OUTCOMES), None)
        passed, total, spent = groups.get(folder, (0, 0, 0.0))
        # A test that passed and whose teardown failed is listed twice, and counts as not passed.
        again = name in names
        passed += int(found is None) if not again else -int(name not in cases)
        groups[folder] = (passed, total + (not again), spent + seconds)
        if found is not None:
            cases[name] = Case(name=name, outcome=_OUTCOMES[found.tag], message=found.get("message", "").strip())
        names.add(name)
    return Summary(
        total=len(names), duration_s=duration_s, groups=groups, cases=tuple(cases.values()), figures=tuple(figures)
    )
