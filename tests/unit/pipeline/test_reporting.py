"""A task that fails, however unexpectedly, is one message, an exit status, and the traceback in a file."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest
import requests
from docker.errors import APIError, DockerException
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task, task

from images.engine.errors import BuildError
from overlayd.errors import PrivilegeError
from pipeline import reporting

ROOT = Path(__file__).resolve().parents[3]


def _namespace() -> Collection:
    """What `invoke` gathers; it minds uncaught exceptions, which here are pytest's."""
    before = sys.excepthook
    try:
        found: Collection = importlib.import_module("tasks").namespace
    finally:
        sys.excepthook = before
    return found


NAMESPACE = _namespace()


@contextmanager
def raised_in(code: CodeType, error: BaseException) -> Iterator[None]:
    """Raise an exception where a function begins; nothing of it is run."""

    def trace(frame: FrameType, _event: str, _argument: object) -> None:
        if frame.f_code is code:
            raise error

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def run(one: Task[Callable[..., object]], error: BaseException) -> Exit:
    """The end of a task that fails with an exception as soon as it begins."""
    function = inspect.unwrap(one.body)
    needed = [
        parameter.name
        for parameter in list(inspect.signature(function).parameters.values())[1:]
        if parameter.default is parameter.empty
    ]
    with pytest.raises(Exit) as caught, raised_in(function.__code__, error):
        one.body(Context(), **dict.fromkeys(needed, "x"))
    return caught.value


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reporting, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(sys, "argv", ["/bin/invoke", "some.task", "--name", "a b"])
    return tmp_path / "logs"


@pytest.mark.parametrize("name", NAMESPACE.task_names)
def test_every_task_names_what_was_not_expected_its_log_and_itself(name: str, logs: Path) -> None:
    end = run(NAMESPACE[name], RuntimeError("broken"))
    log = logs / f"task-{name}.log"
    assert end.code == 1
    assert end.message == (
        f"error: {name} failed unexpectedly: RuntimeError: broken\n"
        f"  log: {log}\n  again: /bin/invoke some.task --name 'a b'"
    )
    assert "Traceback" in log.read_text()
    assert "RuntimeError: broken" in log.read_text()


ANSWER = requests.Response()
ANSWER.status_code = 500


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BuildError("no base", hint="take one"), 1, "error: no base\n  take one"),
        (PrivilegeError("not root", hint="be it"), 4, "error: not root\n  be it"),
        (KeyboardInterrupt(), 130, "stopped; unfinished results are removed"),
        (DockerException("gone"), 1, "error: one: Docker: gone\n  see that dockerd runs: docker info"),
        (APIError("x", ANSWER, "no room"), 1, "error: one: Docker: no room\n"),
        (requests.ConnectionError("reset"), 1, "error: one: Docker: reset\n"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/a"), 1, "error: one: /a: Read-only file system\n  the file"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "error: one: No space left on device\n  no room"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 1, "error: one: /a: Permission denied\n  run it as"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "skopeo"),
            1,
            "error: one: skopeo: No such file\n  if it is a",
        ),
        (json.JSONDecodeError("Expecting value", "{", 1), 1, "unexpectedly: JSONDecodeError: Expecting value: line 1"),
        (ValueError(), 1, "error: one failed unexpectedly: ValueError: without a message\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_kind_of_failure_says_what_to_do(error: BaseException, status: int, said: str, logs: Path) -> None:
    end = reporting.failure("one", error)
    assert end.code == status
    assert said in str(end.message)
    assert "Traceback" not in str(end.message)
    made_for_users = isinstance(error, BuildError | PrivilegeError | KeyboardInterrupt)
    assert (logs / "task-one.log").exists() != made_for_users


def test_a_log_that_cannot_be_written_beside_the_others_is_a_temporary_file(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    message = str(reporting.failure("one", RuntimeError("broken")).message)
    [written] = tmp_path.glob("overlayd-task-one-*.log")
    assert f"log: {written}\n" in message
    monkeypatch.setattr("tempfile.tempdir", str(logs))
    assert "log: could not be written (" in str(reporting.failure("one", RuntimeError("broken")).message)


@pytest.mark.parametrize("error", [BuildError("x"), PrivilegeError("x"), RuntimeError("x")])
def test_debug_shows_the_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="invoke"):
        assert f"{type(error).__name__}: x" in str(reporting.failure("one", error).message).splitlines()[-1]


def test_what_a_task_says_to_invoke_is_left_alone() -> None:
    @task
    def fails(_c: Context) -> None:
        raise Exit("mine", code=7)

    namespace = Collection(fails)
    reporting.cover(namespace)
    with pytest.raises(Exit) as caught:
        namespace["fails"](Context())
    assert (caught.value.message, caught.value.code) == ("mine", 7)


@pytest.mark.parametrize("words", ["--list", "rpm.nosuch", "cluster.up --help"])
def test_nobody_reads_on_and_nobody_complains(words: str) -> None:
    script = f"{sys.executable} -m invoke {words} | true"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
