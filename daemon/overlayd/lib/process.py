"""The one module that spawns processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from overlayd.errors import CommandFailed, CommandTimedOut

_SHOWN_INPUT_LINES = 40
_HANDED_ON = (
    # Where programs and their libraries are, and whose settings and temporary files they use.
    *("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "TZ"),
    # systemctl and firewall-cmd, where the bus is elsewhere.
    "DBUS_SYSTEM_BUS_ADDRESS",
    # `docker ps`, where dockerd listens elsewhere.
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION"),
    # iptables: another lock that others here use too, and where its extensions are.
    *("XTABLES_LOCKFILE", "XTABLES_LIBDIR"),
)


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
    output open after `timeout_s` seconds; in that case all of them were killed, and it is CommandTimedOut.
    """
    try:
        done = _finish(list(argv), input, timeout_s, {**child_environment(), **(env or {})})
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]}: command not found", hint=f"install the package that has {argv[0]}") from None
    except (OSError, ValueError) as error:
        # ValueError for a zero byte, or half a character, which no program can be given as an argument.
        raise CommandFailed(f"{shlex.join(argv)}\n  could not be started: {error}") from error
    except subprocess.TimeoutExpired:
        raise CommandTimedOut(f"{shlex.join(argv)}\n  was killed: no end after {timeout_s:g} s") from None
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
    """The environment for a child: what it needs, messages in English, and libraries from where the user has them.

    Only variables of a list are handed on: others may be a secret (etcd's password), let a child speak to systemd for
    us (NOTIFY_SOCKET), or make it load other code (LD_PRELOAD). PyInstaller's bootloader points LD_LIBRARY_PATH
    at our libraries, which other programs must not load, and keeps the user's value in LD_LIBRARY_PATH_ORIG.
    """
    environment = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    environment["LC_ALL"] = "C"
    original = os.environ.get("LD_LIBRARY_PATH_ORIG")
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
