"""The one module that spawns processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from overlayd.errors import CommandFailed

_SHOWN_INPUT_LINES = 40


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002
    timeout_s: float = 30,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return what it wrote on standard output.

    `env` is added to our own environment. Raises CommandFailed, whose message is the command to paste with what it
    said, when it cannot be started, ends with a status other than 0, or when it or a child of its own still has its
    output open after `timeout_s` seconds; in that case all of them were killed.
    """
    try:
        done = _finish(list(argv), input, timeout_s, {**child_environment(), **(env or {})})
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]}: command not found", hint=f"install the package that has {argv[0]}") from None
    except OSError as error:
        raise CommandFailed(f"{shlex.join(argv)}\n  could not be started: {error}") from error
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{shlex.join(argv)}\n  was killed: no end after {timeout_s:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise CommandFailed(_pasteable(argv, input) + f"\n  ended with status {done.returncode}: {said}")
    return done.stdout


def _finish(
    argv: list[str], text: str | None, timeout_s: float, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        # A group of its own, so that what a shell started ends with the shell.
        process_group=0,
    ) as child:
        try:
            output, errors = child.communicate(text, timeout=timeout_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(argv, child.returncode, output, errors)


def child_environment() -> dict[str, str]:
    """The environment for a child: messages in English, and libraries from where the user has them.

    PyInstaller's bootloader points LD_LIBRARY_PATH at our own libraries, which other programs must not load, and keeps
    the user's value in LD_LIBRARY_PATH_ORIG.
    """
    # What the bootloader tells itself (_PYI_…) would mislead a child that is frozen too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("_PYI_")}
    environment["LC_ALL"] = "C"
    original = environment.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is not None:
        environment["LD_LIBRARY_PATH"] = original
    elif getattr(sys, "frozen", False):
        environment.pop("LD_LIBRARY_PATH", None)
    return environment


def _pasteable(argv: Sequence[str], text: str | None) -> str:
    command = shlex.join(argv)
    if text is None:
        return command
    lines = text.rstrip("\n").splitlines()
    if len(lines) > _SHOWN_INPUT_LINES:
        lines = [*lines[:_SHOWN_INPUT_LINES], f"# and {len(lines) - _SHOWN_INPUT_LINES} more lines"]
    return "\n".join([f"{command} <<'END'", *lines, "END"])
