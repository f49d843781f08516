"""What counts as a change, and how it is named."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from images.engine import inputs, process
from images.engine.errors import BuildError


def test_changed_names_the_input_that_changed() -> None:
    before = inputs.of_values(packages=["a"], enable=["sshd"])
    now = inputs.of_values(packages=["a", "b"], enable=["sshd"])
    assert inputs.changed(before, now) == 'packages changed: ["a"] -> ["a", "b"]'
    many = inputs.of_values(packages=[str(n) for n in range(100)], enable=["sshd"])
    assert inputs.changed(now, many) == "packages changed"


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (None, {"a": "1"}, "never built"),
        ({"a": "1"}, {"a": "1"}, None),
        ({}, {"a": "1"}, "a is new"),
        ({"a": "1"}, {}, "a is gone"),
        ({}, dict.fromkeys("abcde", "1"), "a is new, b is new, c is new and 2 more"),
    ],
)
def test_changed_in_words(before: inputs.Inputs | None, now: inputs.Inputs, reason: str | None) -> None:
    assert inputs.changed(before, now) == reason


def test_a_fingerprint_does_not_depend_on_the_order() -> None:
    assert inputs.fingerprint({"a": "1", "b": "2"}) == inputs.fingerprint({"b": "2", "a": "1"})
    assert inputs.of_values(names={"x", "y"}) == inputs.of_values(names={"y", "x"})
    assert inputs.of_values(names=["x", "y"]) != inputs.of_values(names=["y", "x"])


def test_files_count_by_content_and_executable_bit_only(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub/recipe"
    file.write_text("one")
    (tmp_path / "link").symlink_to("sub/recipe")
    first = inputs.of_files(tmp_path, [tmp_path])
    assert set(first) == {"file sub/recipe", "file link"}
    file.touch()
    assert inputs.of_files(tmp_path, [tmp_path]) == first
    file.chmod(0o755)
    assert inputs.changed(first, inputs.of_files(tmp_path, [tmp_path])) == "file sub/recipe changed"
    file.chmod(0o644)
    file.write_text("two")
    assert inputs.changed(first, inputs.of_files(tmp_path, [tmp_path])) == "file sub/recipe changed"


def test_compiled_python_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/x.cpython-311.pyc").write_bytes(b"")
    (tmp_path / "y.pyc").write_bytes(b"")
    assert inputs.of_files(tmp_path, [tmp_path]) == {}


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inputs.of_files(tmp_path, [tmp_path / "nowhere"])


def test_code_is_a_module_with_all_that_it_imports_wherever_it_does(tmp_path: Path) -> None:
    for path, text in {
        "a/__init__.py": "",
        "a/top.py": "from a import one\nimport os\ndef f():\n    from a.b import two\n",
        "a/one.py": "from a.b.three import name\n",
        "a/b/__init__.py": "import a.four\n",
        "a/b/two.py": "",
        "a/b/three.py": "import a.top\nname = 1\n",
        "a/four.py": "",
        "a/other.py": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = inputs.of_code(tmp_path, tmp_path / "a/top.py")
    names = ("__init__", "top", "one", "b/__init__", "b/two", "b/three", "four")
    assert set(found) == {f"code a/{name}.py" for name in names}


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('"""Another."""\n\n\nX = "# no comment"  # another\ndef f():\n    """So."""\n    return 1\n', True),
        ('"""Doc."""\nX = "# another comment"\ndef f():\n    """Doc."""\n    return 1\n', False),
        ('"""Doc."""\nX = "# no comment"\ndef f():\n    """Doc."""\n    return 2\n', False),
        ('"""Doc."""\nX = "# no comment"\ndef f():\n    """Doc."""\nreturn 1\n', False),
        ('"""Doc."""\nX = "# no comment"\ndef f():\n    "".join("Doc.")\n    return 1\n', False),
    ],
    ids=["comments", "a string", "a number", "indentation", "no docstring"],
)
def test_code_counts_but_for_what_is_said_about_it(tmp_path: Path, text: str, same: bool) -> None:
    found = []
    for name, content in {
        "one": '"""Doc."""\nX = "# no comment"\ndef f():\n    """Doc."""\n    return 1\n',
        "two": text,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text(content)
        with contextlib.suppress(SyntaxError):
            found.append(inputs.of_code(tmp_path / name, tmp_path / name / "code.py"))
    assert (found[0] == found[-1] and len(found) == 2) is same


def test_tools_have_the_same_version_in_every_language(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text('#!/bin/sh\necho "${LC_ALL:-none} ${LANG:-none} ${HOME%%-*}"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(process, "_PLAIN", {"PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert inputs.of_tools(str(tool)) == {f"tool {tool}": f"C.UTF-8 none {tempfile.gettempdir()}/overlayd"}


def test_a_link_counts_as_a_link_whatever_is_at_its_end(tmp_path: Path) -> None:
    links = {"to-a-folder": "/usr", "dangling": "/nowhere", "not-utf-8": os.fsdecode(b"/no\xffwhere")}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert set(inputs.of_files(tmp_path, [tmp_path])) == {f"file {name}" for name in links}


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildError, match=r"/pipe is neither a file, nor a folder, nor a link"):
        inputs.of_files(tmp_path, [tmp_path])


@pytest.mark.parametrize("value", ["\u00b2", "-1", "1e9", "99999999999999999999"])
def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    with pytest.raises(BuildError, match="SOURCE_DATE_EPOCH is"):
        inputs.given_epoch()
