"""Child processes of a build: one `run` for all, whose errors hold a command to paste, and which ends on `Stop`."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from images.engine.errors import BuildCommandFailed, Cancelled

GRACE_S = 2.0
_TAIL_LINES = 15
# These variables are the same for every command on every machine, so that commands make the same everywhere.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLAIN = {"PATH": PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
# Variables that a command with a network is given too: proxies, certificate authorities, and pip's settings.
_NETWORK = re.compile(
    r"(?i)(https?|ftp|all|no)_proxy|SSL_CERT_(FILE|DIR)|(CURL|REQUESTS)_CA_BUNDLE|PIP_\w+|NETRC|HOME|XDG_CONFIG_HOME"
)
# Whatever umask the user has, files are made so that only their owner may write them: umask(2).
UMASK = 0o022


def clean_environment(*, network: bool = False) -> dict[str, str]:
    """The variables of a command that builds: none of the user's, but with `network` those that the network needs.

    HOME is the user's with `network` (pip's configuration is there), else a folder that only this process has.
    """
    found = {name: value for name, value in os.environ.items() if network and _NETWORK.fullmatch(name)}
    return {"HOME": _home().name, **found, **_PLAIN}


@functools.cache
def _home() -> tempfile.TemporaryDirectory[str]:
    """A home folder for commands, removed when this process ends: rpm and dnf make a database in the one they get."""
    return tempfile.TemporaryDirectory(prefix="overlayd-home-", ignore_cleanup_errors=True)


@contextlib.contextmanager
def usual_umask() -> Iterator[None]:
    """Set UMASK for this process during the block, so that files get the same modes whatever the user's umask is."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)


class Stop:
    """Stops all steps of a build, and ends what they started.

    `on_stop` registers an action for the length of a block: `set` runs it once, in the thread that calls `set`. A block
    that begins after `set` raises Cancelled.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._actions: dict[int, Callable[[], None]] = {}
        self._next = 0

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Cancelled when the build was told to stop."""
        if self._event.is_set():
            raise Cancelled("the build was stopped")

    @contextlib.contextmanager
    def on_stop(self, action: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self.check()
            key = self._next
            self._next += 1
            self._actions[key] = action
        try:
            yield
        finally:
            with self._lock:
                self._actions.pop(key, None)

    def set(self) -> None:
        """Stop all steps. May be called twice."""
        with self._lock:
            self._event.set()
            actions = list(self._actions.values())
            self._actions.clear()
        for action in actions:
            with contextlib.suppress(Exception):
                action()


def run(
    argv: Sequence[str | Path],
    *,
    log: IO[bytes],
    stop: Stop,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    base_env: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end, its output going to `log` (or its standard output to `stdout`).

    Its variables are those of `base_env` and `env`. Without `base_env` they are `clean_environment()` and `env`; what
    needs the user's keys or logins is given os.environ. The child is the head of a process group of its own, so that
    Ctrl-C reaches us alone and we end the whole group: SIGTERM, then SIGKILL after GRACE_S. Raises CommandFailed with
    the command and the last lines of its output, and Cancelled.
    """
    words = [str(word) for word in argv]
    log.write(f"+ {pasteable(words, cwd=cwd, env=env)}\n".encode())
    log.flush()
    start = log.tell() if log.seekable() else 0
    try:
        child = subprocess.Popen(
            words,
            cwd=cwd,
            env={**(clean_environment() if base_env is None else base_env), **(env or {})},
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            stdout=stdout if stdout is not None else log,
            stderr=log,
            start_new_session=True,
        )
    except OSError as error:
        raise BuildCommandFailed(f"cannot start {pasteable(words, cwd=cwd, env=env)}: {error.strerror}") from error
    try:
        with stop.on_stop(lambda: end(child)):
            status = child.wait()
    except BaseException:
        end(child)
        raise
    stop.check()
    if status != 0:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise BuildCommandFailed(f"this command {how}:\n  {pasteable(words, cwd=cwd, env=env)}\n{_tail(log, start)}")


def capture(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    base_env: Mapping[str, str] | None = None,
) -> str:
    """The standard output, in English, of a command that takes no long time. Raises CommandFailed.

    Its variables are those that `run` gives.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**(clean_environment() if base_env is None else base_env), "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BuildCommandFailed(f"cannot start {pasteable(words, cwd=cwd, env=env)}: {error.strerror}") from error
    if done.returncode != 0:
        raise BuildCommandFailed(
            f"this command ended with status {done.returncode}:\n  {pasteable(words, cwd=cwd, env=env)}\n"
            + done.stderr.strip()
        )
    return done.stdout


def pasteable(words: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The command as one types it into a shell, with the folder and the variables that it was given."""
    parts = [f"cd {shlex.quote(str(cwd))} &&"] if cwd else []
    parts += [f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    parts.append(shlex.join(words))
    return " ".join(parts)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child and its process group: SIGTERM, then SIGKILL after GRACE_S. Does nothing for one that has ended."""
    deadline = time.monotonic() + GRACE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)


def _tail(log: IO[bytes], start: int) -> str:
    try:
        with Path(log.name).open("rb") as again:
            again.seek(start)
            lines = again.read().decode(errors="replace").rstrip().splitlines()
    except (OSError, TypeError, AttributeError):
        return ""
    return "\n".join(f"  | {line}" for line in lines[-_TAIL_LINES:])
