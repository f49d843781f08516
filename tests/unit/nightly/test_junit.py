"""JUnit files that a real pytest wrote are read, also damaged ones and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nightly.junit import end, in_words, merged, plain, summarize
from tests.unit.nightly import made

MARK = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made.junit(tmp_path_factory.mktemp("tests"), made.PLAIN, made.recording())


def test_tests_are_counted_and_a_broken_teardown_once(document: bytes) -> None:
    found = summarize(document)
    assert found.problems == ()
    assert (found.total, len(found.seconds)) == (6, 6)
    counts = {word: found.count(word) for word in ("failed", "passed", "skipped", "error")}
    assert in_words(counts) == "1 failed, 3 passed, 1 skipped, 1 error"
    assert [(case.name, case.outcome) for case in found.not_passed] == [
        ("test_number0.py::test_bad[host-gw]", "failed"),
        ("test_number0.py::test_teardown", "error"),
    ]
    assert found.groups["other"][:2] == (3, 6)


def test_a_failure_has_its_output_and_the_place_of_its_logs(document: bytes) -> None:
    (failed, _) = summarize(document).not_passed
    assert "4 of 10 lost" in failed.message
    assert failed.output.endswith("host1 sent 10 packets")
    assert "Captured Err" not in failed.output
    assert failed.logs == "build/clusters/test_bad"


def test_records_are_read_back_and_those_of_another_kind_are_a_problem(document: bytes, tmp_path: Path) -> None:
    found = summarize(document)
    assert (len(found.connections), len(found.faults)) == (126, 6)
    assert {one.backend for _, one in found.connections} == {"vxlan", "host-gw", "udp", "wireguard"}
    bad = ('"[]"', """'{"source": 1}'""", "'no json'")
    source = "\n".join(
        f"def test_{number}(record_property):\n    record_property('fault', {value})"
        for number, value in enumerate(bad)
    )
    other = summarize(made.junit(tmp_path, source))
    assert len(other.problems) == 3
    assert other.faults == ()


def test_a_document_that_was_cut_off_tells_of_its_whole_tests(document: bytes) -> None:
    found = summarize(document[: document.index(b"test_teardown")])
    assert found.total == 4
    assert "damaged" in found.problems[0]
    assert summarize(b"").total == 0
    assert summarize(b"\xff\xfe\x00<").problems


def test_several_documents_and_runs_that_were_killed_are_one_document(document: bytes) -> None:
    found = summarize(merged([document, document[:400], b"no XML"], {"run 3": "the last words"}).encode())
    assert found.total == 7
    assert found.cases[-1].name == "pytest::run 3"
    assert found.cases[-1].output == "the last words"


def test_hostile_texts_are_text_and_loud_ones_are_cut(tmp_path: Path) -> None:
    found = summarize(made.junit(tmp_path, made.HOSTILE))
    assert (found.count("failed"), found.problems) == (5, ())
    texts = [text for case in found.cases for text in (case.name, case.message, case.output, case.logs)]
    assert not [text for text in texts if "\x1b" in text or "\x00" in text or "\ud800" in text]
    assert "AssertionError: <script>alert(1)</script>" in found.cases[0].message
    assert "AssertionError: red link" in found.cases[1].message
    assert max(len(text) for text in texts) < 30_000
    assert found.cases[-1].output.endswith("the very end")


def test_escapes_go_and_forbidden_characters_are_marked() -> None:
    assert plain("\x1b[1;31mred\x1b[0m\ttab\n") == "red\ttab\n"
    assert plain("\x1b]0;title\x07shown") == "shown"
    assert plain("a\x00b\ud800c\ufffed") == f"a{MARK}b{MARK}c{MARK}d"


def test_the_end_of_a_long_text_begins_with_a_line() -> None:
    text = "\n".join(f"line {number}" for number in range(1000))
    kept = end(text, 100)
    head, _, rest = kept.partition("\n")
    assert head == f"… {len(text) - len(rest)} characters before"
    assert text.endswith(f"\n{rest}")
    assert end("x" * 500, 100) == f"… 400 characters before\n{'x' * 100}"
    assert end("short", 100) == "short"
