"""A dockerd to build and test with: the one that answers, else one that is started, and stopped later.

On a machine with systemd the service docker is started, and left running. Elsewhere, as on a CI machine, dockerd is
started as a process. Its number is written to a file below /run, and beside it the checkout that started it: `make
down` stops what `make up` of the same checkout started, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

from images.engine import lock
from images.engine.errors import BuildError
from images.engine.interrupts import sigterm_raises
from images.engine.place import ROOT

STATE = Path("/run/overlayd-build")
PIDFILE = STATE / "dockerd.pid"
STARTED_BY = STATE / "dockerd.checkout"
LOG = STATE / "dockerd.log"
USERS = STATE / "dockerd.users"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class NoDocker(BuildError):
    """There is no dockerd, and none can be started."""


def answers() -> bool:
    """Whether a dockerd answers where DOCKER_HOST, or the default socket, is."""
    return unreachable() is None


def ensure() -> bool:
    """Start a dockerd where none answers; whether this process has to stop it. Raises NoDocker.

    When several processes call it, one of them starts dockerd; the others wait, and find it running.
    """
    said = unreachable()
    if said is None:
        return False
    _require_that_one_can_be_started(said)
    with lock.held(lock.folder(STATE) / "dockerd.lock", "starting dockerd", shlex.join(sys.argv)):
        return False if answers() else _start()


def unreachable() -> str | None:
    """Why no dockerd answers, in a few words; None when one does."""
    try:
        _connect()
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            client.ping()
    # The errors of requests are OSErrors, and the client does not always wrap them.
    except (DockerException, OSError) as error:
        return reason(error)
    return None


def _connect() -> None:
    """Raises OSError when nobody listens at the socket. Without this Docker's client would leave a socket open."""
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if where.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(5)
            end.connect(where.removeprefix("unix://"))


def reason(error: BaseException) -> str:
    """The system's own error text in an error of Docker's client, which wraps it several times."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return str(error)


def require_permission(said: str) -> None:
    """Raise NoDocker when a dockerd runs and this user may not talk to it. `said` is the answer of `unreachable`."""
    if said == os.strerror(errno.EACCES):
        raise NoDocker("this user may not talk to dockerd", hint="run as root, or as a user of the group docker")


def _require_that_one_can_be_started(said: str) -> None:
    require_permission(said)
    if where := os.environ.get("DOCKER_HOST"):
        raise NoDocker(f"no dockerd answers at DOCKER_HOST={where}: {said}", hint="start it, or unset DOCKER_HOST")
    if os.geteuid() != 0:
        raise NoDocker("no dockerd answers, and only root can start one", hint="run as root, or start docker")
    # Only for root: to another user it may be installed and not in the PATH.
    if shutil.which("dockerd") is None:
        raise NoDocker("dockerd is not installed", hint="`make system` installs what is missing")


def _start() -> bool:
    if Path("/run/systemd/system").is_dir():
        started = subprocess.run(["systemctl", "start", "docker"], capture_output=True, text=True, check=False)
        if started.returncode != 0 or not answers():
            raise NoDocker(f"systemctl start docker: {started.stderr.strip()}", hint="see journalctl -u docker")
        return False
    STARTED_BY.write_text(f"{ROOT}\n")
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            ["dockerd", "--pidfile", str(PIDFILE)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # In a session of its own it does not get Ctrl-C, and it goes on after `make up`.
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-5:])
            _end()
            raise NoDocker(f"dockerd did not start; {LOG} ends with:\n{tail}")
        time.sleep(0.2)
    return True


def stop() -> str | None:
    """Stop the dockerd that `ensure` started in this checkout, if there is one, and wait for its end.

    The answer is None, or why dockerd goes on: another checkout started it, or containers run.
    """
    try:
        starter = Path(STARTED_BY.read_text().strip())
    except OSError:
        return None
    if starter != ROOT and starter.exists():
        return f"dockerd was started by {starter}: `make down` there stops it"
    if answers():
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            names = [str(container.name) for container in client.containers.list(ignore_removed=True)]
        if names:
            return f"dockerd goes on, as containers run: {', '.join(names[:3])}{' …' if names[3:] else ''}"
    _end()
    return None


@contextmanager
def in_use() -> Iterator[None]:
    """Keep a dockerd that was started here from being stopped during the block, if that lasts less than a minute."""
    with contextlib.ExitStack() as stack:
        # Only root starts one.
        with contextlib.suppress(OSError):
            fcntl.flock(stack.enter_context(USERS.open("w")), fcntl.LOCK_SH)
        yield


def _wait_for_users() -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    with contextlib.suppress(OSError), USERS.open("w") as file:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.1)


def _end() -> None:
    _wait_for_users()
    try:
        pid = int(PIDFILE.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() != "dockerd":
            return
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.1)
    PIDFILE.unlink(missing_ok=True)
    STARTED_BY.unlink(missing_ok=True)


@contextmanager
def running() -> Iterator[None]:
    """Have a dockerd during the block. One that was started for it is stopped at its end, also after a SIGTERM."""
    started = ensure()
    with sigterm_raises(SystemExit(128 + signal.SIGTERM)):
        try:
            yield
        finally:
            if started:
                _end()
