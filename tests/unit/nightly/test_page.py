"""The page has what failed first, is whole and self-contained, and shows hostile texts as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from overlayd.errors import OverlaydError
from tests.nightly import night, parts
from tests.nightly.runs import FaultCost
from tests.unit.nightly import made
from tests.unit.nightly.made import outcome

_VOID = ("meta", "wbr")


class _Reader(HTMLParser):
    """Checks that tags are closed in order; collects the elements, what a browser would fetch, ids, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.fetched += [
            str(value) for name, value in attrs if name in ("src", "href") and not str(value).startswith("#")
        ]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(folder: Path) -> tuple[_Reader, str]:
    """The page of a folder, and its text on one line."""
    html = (folder / night.PAGE).read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(html)
    assert not reader.open
    assert reader.fetched == reader.handlers == []
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.seen)
    assert "url(" not in html
    assert "@import" not in html
    assert len(reader.ids) == len(set(reader.ids))
    return reader, re.sub(r"\s+", " ", "".join(reader.texts))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, bytes]:
    """JUnit of tests of which some fail, of tests that pass, and of hostile ones."""
    sources = ((made.PLAIN, made.recording()), (made.recording(),), (made.HOSTILE,))
    bad, good, hostile = (made.junit(tmp_path_factory.mktemp("tests"), *one) for one in sources)
    return bad, good, hostile


def test_what_failed_is_first_with_its_output_its_logs_and_since_when(
    tmp_path: Path, documents: tuple[bytes, bytes, bytes]
) -> None:
    folder = made.results(tmp_path, documents[0], made.bench())
    made.keep(
        folder, made.older(3), made.older(2, "test_number0.py::test_bad[host-gw]"), made.older(1, "tests/c.py::d")
    )
    closed = night.render(folder)
    assert not closed.well
    assert closed.line.strip("= ").startswith("1 failed, 3 passed, 1 skipped, 1 error in 4270.00s (1:11:10)")
    _, text = read(folder)
    # Behind the links to the parts of the page.
    text = text[text.index("Everything else") :]
    order = ["What failed", "test_bad[host-gw]", "4 of 10 lost", "test_teardown", "Connectivity"]
    places = [text.index(one) for one in order]
    assert places == sorted(places)
    for expected in ("Logs: build/clusters/test_bad", "host1 sent 10 packets", "failed in 1 of the 3 nights before"):
        assert expected in text
    # It passed in the last night.
    assert "new" in text[text.index("test_bad[host-gw]") : text.index("test_teardown")]
    assert "1 that failed in the night before and does not any more" in text


def test_matrix_ratios_faults_and_times_are_on_it(tmp_path: Path, documents: tuple[bytes, bytes, bytes]) -> None:
    folder = made.results(tmp_path, documents[1], made.bench(0.7), outcome("tests"), outcome("bench"))
    cost = {"test_number0.py::test_all_pairs: device deleted, vxlan": FaultCost(sent=400, lost=20, recovered_s=0.2)}
    made.keep(folder, *(made.older(number, faults=cost) for number in range(1, 8)))
    assert night.render(folder).well
    reader, text = read(folder)
    assert "All passed" in text
    for expected in (
        "126 pairs of hosts, 4 lost packets",
        "✗ 4 of 6",
        "▼ usually 0.84",
        "▲ 41",
        "Slowest tests",
        "▲ 21 min10 min50 min",
        "▲ 2.4 s",
        "Last 8 nights",
    ):
        assert expected in text, expected
    assert reader.seen.count("svg") == 12
    html = (folder / night.PAGE).read_text()
    assert html.count("<table") == html.count("<caption")
    assert "<th>" not in html
    assert re.search(r'aria-label="vxlan · tcp_1: 0\.588 tonight, 0\.8\d usually; between', html)


def test_hostile_texts_are_shown_as_text(tmp_path: Path, documents: tuple[bytes, bytes, bytes]) -> None:
    evil = "<script>alert(1)</script>\x00\x1b[31m</style>"
    figures = made.bench() | {evil: {evil: {"part": 0.5, "s": 2, "limit_s": 1, "text": evil}}}
    problem = outcome(evil, parts.FAILED, evil)
    folder = made.results(tmp_path, documents[2], figures, problem, outcome("tests"), commit=evil, selection=evil)
    (folder / "runs").mkdir()
    (folder / "runs" / "<script>alert(3)<%2fscript>.json").write_text(evil)
    night.render(folder)
    _, text = read(folder)
    for expected in ("<script>alert(1)</script><img src=x onerror=alert(2)>", "{{ 7 * 7 }}{% raw %}", "the very end"):
        assert expected in text
    html = (folder / night.PAGE).read_bytes()
    assert b"\x00" not in html
    assert b"\x1b" not in html
    assert len(html) < 400_000


def test_a_page_is_there_with_no_results_at_all(tmp_path: Path) -> None:
    folder = made.results(
        tmp_path, None, None, outcome("build", parts.FAILED, "it ended with status 1"), outcome("tests")
    )
    (folder / "build.log").write_bytes(b"mmdebstrap: no room\xff")
    assert not night.render(folder).well
    _, text = read(folder)
    assert text.index("it ended with status 1") < text.index("mmdebstrap: no room") < text.index("it left no results")
    assert night.render(folder).line.strip("= ").startswith("2 errors in ")


def test_damaged_results_are_named_on_the_page(tmp_path: Path, documents: tuple[bytes, bytes, bytes]) -> None:
    folder = made.results(tmp_path, documents[0][:-900], None)
    (folder / "bench.json").write_text("{")
    (folder / "night.json").write_text(json.dumps({"when": "yesterday"}))
    (folder / "runs").mkdir()
    (folder / "runs" / "old.json").write_text("[]")
    night.render(folder)
    _, text = read(folder)
    for expected in (
        "bench.json is damaged",
        "night.json does not tell",
        "results of tests are damaged",
        "old.json was left",
    ):
        assert expected in text
    # Whose time is not known is kept nowhere.
    assert [path.name for path in (folder / "runs").iterdir()] == ["old.json"]


@pytest.mark.parametrize(
    ("ended", "problem", "words"),
    [
        (parts.CUT_OFF, "cut off after 20 min", "1 error"),
        (parts.BROKEN_OFF, "broken off after 3 min", "Broken off, 1 error"),
        (parts.NOT_RUN, "the parts before it took all the time", "1 error"),
    ],
)
def test_a_part_that_did_not_come_to_its_end_is_an_error(
    tmp_path: Path, documents: tuple[bytes, bytes, bytes], ended: str, problem: str, words: str
) -> None:
    folder = made.results(tmp_path, documents[1], None, outcome("tests"), outcome("bench", ended, problem))
    closed = night.render(folder)
    assert (closed.well, closed.line.strip("= ").startswith("1 passed, 1 error in ")) == (False, True)
    _, text = read(folder)
    assert f"✗ {words}" in text
    assert problem in text
    kept = json.loads(next((folder / "runs").iterdir()).read_text())
    assert kept["complete"]
    assert not kept["well"]


def test_a_bench_without_figures_is_an_error(tmp_path: Path, documents: tuple[bytes, bytes, bytes]) -> None:
    folder = made.results(tmp_path, documents[1], None, outcome("tests"), outcome("bench"))
    assert night.render(folder).line.strip("= ").startswith("1 passed, 1 error in ")


def test_rendering_again_changes_nothing_and_keeps_one_run(
    tmp_path: Path, documents: tuple[bytes, bytes, bytes]
) -> None:
    folder = made.results(tmp_path, documents[0], made.bench())
    made.keep(folder, made.older(1))
    night.render(folder)
    before = {path.name: path.read_bytes() for path in [folder / night.PAGE, *(folder / "runs").iterdir()]}
    night.render(folder)
    assert {path.name: path.read_bytes() for path in [folder / night.PAGE, *(folder / "runs").iterdir()]} == before
    assert len(before) == 3


def test_a_selection_is_said_and_tells_later_nights_of_no_pass(
    tmp_path: Path, documents: tuple[bytes, bytes, bytes]
) -> None:
    folder = made.results(tmp_path, documents[1], None, outcome("tests"), selection="tests/unit/leases")
    night.render(folder)
    _, text = read(folder)
    assert "All passed of tests/unit/leases" in text
    assert not json.loads(next((folder / "runs").iterdir()).read_text())["complete"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("tests/a.py::test_b", "make one T=tests/a.py::test_b"),
        ("tests/a.py::test_b[vxlan]", """make one T='"tests/a.py::test_b[vxlan]"'"""),
        ("tests/a.py::test_b[routes flushed]", """make one T='"tests/a.py::test_b[routes flushed]"'"""),
        ("tests/a.py::test_b[$(reboot)]", None),
        ("tests/a.py::test_b['; reboot]", None),
        ("bench", None),
    ],
)
def test_the_command_to_run_a_test_again_is_safe_to_paste(tmp_path: Path, name: str, command: str | None) -> None:
    file, _, test = name.partition("::")
    attributes = f'file="{file}" name="{test}"' if test else f'name="{file}"'
    xml = f"<testsuites><testsuite><testcase {attributes}><failure/></testcase></testsuite></testsuites>"
    night.render(made.results(tmp_path, xml.encode(), None, outcome("tests", parts.FAILED, "")))
    _, text = read(tmp_path)
    assert (f"Again: {command} " in text) if command else ("Again:" not in text)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OverlaydError, match="has no results of a night"):
        night.render(tmp_path)
