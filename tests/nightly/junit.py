"""A summary of pytest's JUnit XML. Pure: text in, values out.

A document may be damaged: a run that was killed leaves half of one, and a full disk too. What was whole is read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from tests.testbed.records import LOGS, Connection, Fault

# In pytest's own order.
_WORDS = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warning", "error")
_OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}
# What is kept of a test's output: its end. A page holds dozens of these.
_OUTPUT_CHARACTERS = 8000
# ECMA-48: CSI, OSC (as a title or a link), and those of two characters. pytest writes control characters as `#x1B`.
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b|#x1B)(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]{0,500}?(?:\x07|#x07|(?:\x1b|#x1B)\\)|[@-Z\\\]-_])"
)
# pytest writes a heading for output of each kind, whether or not there was any.
_EMPTY_SECTION = re.compile(r"^-+ Captured \w+ -+\n+(?=-+ Captured|\Z)", re.MULTILINE)
# XML 1.0 (2.2) allows no other characters.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test that did not pass: its outcome is `failed`, `error` or `skipped`.

    `output` is the end of what pytest says of the failure and of what the test printed; `logs` a folder with more.
    """

    name: str
    outcome: str
    message: str
    output: str = ""
    logs: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value that a test recorded under a name of its own."""

    test: str
    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a run of tests. `groups` has for each folder how many passed, of how many, in how many seconds.

    `seconds` is the time of each test with its set-up. `problems` say what of the document could not be read.
    """

    total: int
    duration_s: float
    groups: dict[str, tuple[int, int, float]]
    cases: tuple[Case, ...]
    seconds: dict[str, float]
    connections: tuple[tuple[str, Connection], ...] = ()
    faults: tuple[tuple[str, Fault], ...] = ()
    figures: tuple[Figure, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def not_passed(self) -> tuple[Case, ...]:
        """Those that failed or had an error, in the order in which they ran."""
        return tuple(case for case in self.cases if case.outcome != "skipped")

    def count(self, outcome: str) -> int:
        """How many tests have an outcome: `passed`, or one of a Case."""
        if outcome == "passed":
            return self.total - len(self.cases)
        return sum(case.outcome == outcome for case in self.cases)


def plain(text: str) -> str:
    """The text without escape sequences of terminals, and without characters that neither XML nor HTML may hold."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", _ESCAPE_SEQUENCE.sub("", text))


def end(text: str, characters: int = _OUTPUT_CHARACTERS) -> str:
    """The end of a text, from the beginning of a line if there is one, and marked where something is left out."""
    if len(text) <= characters:
        return text
    kept = text[-characters:]
    _, newline, lines = kept.partition("\n")
    return f"… {len(text) - len(lines if newline else kept)} characters before\n{lines if newline else kept}"


def in_words(counts: Mapping[str, int]) -> str:
    """Counts of outcomes as pytest words them in its closing line: `1 failed, 2 passed`."""
    words = [f"{counts[word]} {_plural(word, counts[word])}" for word in _WORDS if counts.get(word)]
    return ", ".join(words) or "no tests ran"


def _plural(word: str, count: int) -> str:
    return f"{word}s" if word in ("warning", "error") and count != 1 else word


def merged(documents: Iterable[bytes], broken: Mapping[str, str] | None = None) -> str:
    """One JUnit document of several: all their suites, as far as each can be read.

    `broken`: runs that did not come to their end, with what they printed; each is an error.
    """
    root = ET.Element("testsuites")
    for document in documents:
        root.extend(_read(document)[0].iter("testsuite"))
    for name, output in (broken or {}).items():
        case = ET.SubElement(ET.SubElement(root, "testsuite"), "testcase", file="pytest", name=name, time="0")
        said = ET.SubElement(case, "error", message="this run of pytest did not come to its end")
        said.text = end(plain(output))
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def summarize(document: bytes) -> Summary:
    """The summary of a JUnit document, as far as it can be read; never raises."""
    root, problems = _read(document)
    groups: dict[str, tuple[int, int, float]] = {}
    cases: dict[str, Case] = {}
    seconds: dict[str, float] = {}
    connections: list[tuple[str, Connection]] = []
    faults: list[tuple[str, Fault]] = []
    figures: list[Figure] = []
    for element in root.iter("testcase"):
        if "name" not in element.keys():  # noqa: SIM118  # an element is a sequence of its children
            # It was running when pytest was interrupted, whose output tells which it was.
            continue
        name = _name(element)
        group = "/".join(name.partition("::")[0].split("/")[:-1][:2]) or "other"
        took_s = _number(element.get("time", ""))
        logs = ""
        for one in element.iter("property"):
            key, value = one.get("name", ""), one.get("value", "")
            try:
                if key == Connection.PROPERTY:
                    connections.append((name, Connection.read(value)))
                elif key == Fault.PROPERTY:
                    faults.append((name, Fault.read(value)))
                elif key == LOGS:
                    logs = plain(value)
                else:
                    figures.append(Figure(test=name, name=plain(key), value=plain(end(value, 300))))
            except (ValueError, TypeError) as error:
                problems.append(f"{name} recorded a {key} that cannot be read: {error}")
        found = next((child for child in element if child.tag in _OUTCOMES), None)
        passed, total, spent = groups.get(group, (0, 0, 0.0))
        # A test that passed and whose teardown failed is listed twice, and counts as not passed.
        again = name in seconds
        passed += int(found is None) if not again else -int(found is not None and name not in cases)
        groups[group] = (passed, total + (not again), spent + took_s)
        seconds[name] = seconds.get(name, 0.0) + took_s
        if found is not None and not (again and name in cases and cases[name].outcome == "failed"):
            cases[name] = _case(name, element, found, logs)
    return Summary(
        total=len(seconds),
        duration_s=sum(seconds.values()),
        groups=groups,
        cases=tuple(cases.values()),
        seconds=seconds,
        connections=tuple(connections),
        faults=tuple(faults),
        figures=tuple(figures),
        problems=tuple(map(plain, problems)),
    )


def _name(element: ET.Element) -> str:
    # pytest's older family of JUnit has the file.
    file = element.get("file") or element.get("classname", "").replace(".", "/") + ".py"
    return plain(f"{file}::{element.get('name', '')}")


def _case(name: str, element: ET.Element, found: ET.Element, logs: str) -> Case:
    said = [(found.text or "").strip()]
    said += [_EMPTY_SECTION.sub("", element.findtext(tag) or "").strip() for tag in ("system-out", "system-err")]
    return Case(
        name=name,
        outcome=_OUTCOMES[found.tag],
        message=plain(end(found.get("message", "").strip(), 1000)),
        output="\n\n".join(end(plain(one)) for one in said if one),
        logs=logs,
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _read(document: bytes) -> tuple[ET.Element, list[str]]:
    """The root of a document, or one with its whole test cases where it is damaged; and what was wrong with it."""
    # What is no UTF-8, or no character of XML's, would end the reading there.
    text = _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", document.decode(errors="replace"))
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("end",))
    try:
        parser.feed(text)
        parser.close()
    except ET.ParseError as error:
        root = ET.Element("testsuites")
        whole = [element for element in _ended(parser) if element.tag == "testcase"]
        ET.SubElement(root, "testsuite").extend(whole)
        return root, [f"the results of tests are damaged ({error}): {len(whole)} of them were whole"]
    return list(_ended(parser))[-1], []


def _ended(parser: ET.XMLPullParser[ET.Element]) -> Iterator[ET.Element]:
    """The elements that have ended, up to the damage: the parser raises it again then."""
    events: Any = parser.read_events()
    with contextlib.suppress(ET.ParseError):
        for _, element in events:
            yield element
