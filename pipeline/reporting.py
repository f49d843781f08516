"""Shows a failed task as one message and an exit status, without a traceback.

`cover` puts that around every task of a collection, `guard` around what Invoke does before and after a task.
A BuildError and an OverlaydError are written for users and shown as they are. For any other error the message has the
cause in words, the file that the traceback was written to, and the command that repeats the task. `invoke --debug`
shows the traceback at once.
"""

from __future__ import annotations

import atexit
import errno
import functools
import logging
import os
import select
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError, UnexpectedExit

from images.engine.errors import BuildError
from overlayd.errors import OverlaydError

LOGS = Path(__file__).resolve().parents[1] / "build/logs"
INTERRUPTED = 130
OUTPUT_CLOSED = 141
# Variables that change what a build makes, so that a command to repeat it names them.
_DECIDING = ("OVERLAYD_RELEASE", "SOURCE_DATE_EPOCH")
_DOCKER = ("docker", "requests", "urllib3")
_HINTS = {
    errno.EROFS: "the file system is read-only: use a checkout that can be written",
    errno.ENOSPC: "no room is left: df shows where; `invoke clean` removes what was built",
    errno.EDQUOT: "the quota is used up; `invoke clean` removes what was built",
    errno.EACCES: "run it as root, or as the owner of the file",
    errno.EPERM: "run it as root, or as the owner of the file",
}


def cover(namespace: Collection) -> None:
    """Make every task of a collection, and of the collections in it, end in a message when it fails."""
    for name in namespace.task_names:
        task = namespace[name]
        task.body = _covered(name, task.body)


def guard() -> None:
    """Do the same for errors outside of tasks; and take it for no error when a reader closes our output early."""
    sys.excepthook = _uncaught
    atexit.register(_flush)


def _covered(name: str, body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(body)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return body(*args, **kwargs)
        # Invoke shows these. One of them may come from a task that this task called.
        except (Exit, UnexpectedExit, ParseError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise failure(name, error) from error

    return wrapper


def failure(task: str, error: BaseException) -> Exit:
    """The message and exit status for an error of a task. The traceback of an unexpected error is written to a file."""
    if isinstance(error, KeyboardInterrupt):
        return Exit("stopped; unfinished results are removed", code=INTERRUPTED)
    if isinstance(error, BrokenPipeError) and _output_closed():
        _flush()
        return Exit("", code=OUTPUT_CLOSED)
    if isinstance(error, BuildError | OverlaydError):
        return Exit(f"error: {error}{_shown(error)}", code=error.exit_status)
    what, hint = _in_words(task, error)
    lines = [f"error: {what}", *([hint] if hint else []), f"log: {_write(task, error)}", f"again: {command()}"]
    return Exit("\n  ".join(lines) + _shown(error), code=1)


def command() -> str:
    """The command line that started this process, to be pasted."""
    return shlex.join([*program(), *sys.argv[1:]])


def program() -> list[str]:
    """The words that start Invoke again: by its path, and with the variables that the result depends on."""
    path = Path(sys.argv[0])
    given = [f"{name}={os.environ[name]}" for name in _DECIDING if name in os.environ]
    words = [sys.executable, "-m", path.parent.name] if path.name == "__main__.py" else [sys.argv[0]]
    return [*(["env", *given] if given else []), *words]


def _in_words(task: str, error: BaseException) -> tuple[str, str | None]:
    """What failed, and what to do next, if that is known."""
    if type(error).__module__.partition(".")[0] in _DOCKER:
        from images.engine.dockerd import reason  # noqa: PLC0415  # importing docker costs 0.2 s

        said = getattr(error, "explanation", None) or reason(error)
        return f"{task}: Docker: {said}", "see that dockerd runs: docker info"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        hint = _HINTS.get(error.errno or 0)
        name = str(error.filename)
        if isinstance(error, FileNotFoundError) and "/" not in name:
            hint = "if it is a program: `make system` installs those that are missing"
        return f"{task}: {name}: {error.strerror}", hint
    if isinstance(error, OSError) and error.strerror:
        return f"{task}: {error.strerror}", _HINTS.get(error.errno or 0)
    text = str(error) or "without a message"
    return f"{task} failed unexpectedly: {type(error).__qualname__}: {text}", None


def _write(task: str, error: BaseException) -> str:
    """Write the traceback to a file; the file's name, or why it was not written."""
    text = f"{command()}\nPython {sys.version}\n\n{_traceback(error)}"
    path = LOGS / f"task-{task}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError:
        try:
            number, name = tempfile.mkstemp(prefix=f"overlayd-task-{task}-", suffix=".log")
            with os.fdopen(number, "w") as file:
                file.write(text)
        except OSError as refused:
            return f"could not be written ({refused}); `invoke --debug …` shows the traceback"
        return name
    # Relative to the folder in which the command was given, where the name may be pasted.
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _shown(error: BaseException) -> str:
    """The traceback when `--debug` or INVOKE_DEBUG is given: both switch on Invoke's own messages."""
    return f"\n{_traceback(error).rstrip()}" if logging.getLogger("invoke").isEnabledFor(logging.DEBUG) else ""


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _uncaught(_kind: type[BaseException], error: BaseException, _where: TracebackType | None) -> None:
    said = failure("invoke", error).message
    if said:
        sys.stderr.write(f"{said}\n")


def _output_closed() -> bool:
    """Whether the reader of our output has gone; a BrokenPipeError may be of another pipe."""
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _flush() -> None:
    """Write out the rest of our output. Without a reader it goes to /dev/null: Python would complain at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
