"""Removes what a process that was killed had begun: `python -m tests.testbed.cluster.guard NAME LOCK`.

Its standard input is a pipe from the process that makes the cluster. A byte there says that all is well. When the pipe
ends without one, that process was killed: the cluster is removed. LOCK is the number of the file by which that process
has the lock of the name, and which we keep; or `-`, and we take the lock ourselves.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from docker.errors import DockerException

from images.engine import dockerd
from images.engine.errors import BuildError
from overlayd.errors import OverlaydError
from tests.testbed.cluster.name_lock import name_locked

_ROOT = Path(__file__).resolve().parents[3]
_TAKES_LOCK = "-"


@contextmanager
def guarded(name: str, lock: int | None = None) -> Iterator[None]:
    """Where this process is killed during the block, have the cluster of that name removed by one that outlives it.

    `lock`: the file of name_locked, where this process has it: nobody else gets that name before all is removed.
    """
    argv = [sys.executable, "-m", __name__, name, _TAKES_LOCK if lock is None else str(lock)]
    with subprocess.Popen(
        argv,
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=() if lock is None else (lock,),
        # What ends us, as a Ctrl-C or a signal to our group, does not reach it.
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            process.communicate(b".")


def main(name: str, lock: str) -> None:
    """Wait for the other's end."""
    # The dockerd that the other's parent started must not end before all is removed.
    with dockerd.in_use():
        if not sys.stdin.buffer.read(1):
            _remove(name, lock)


def _remove(name: str, lock: str) -> None:
    # Not above: that module imports this one.
    from tests.testbed.cluster.create import remove  # noqa: PLC0415

    said = f"cluster {name} is removed: the process that made it was killed"
    try:
        with name_locked(name) if lock == _TAKES_LOCK else nullcontext():
            remove(name)
    except (OverlaydError, BuildError, DockerException, OSError) as error:
        # As where dockerd was killed, too.
        said = f"cluster {name}: its maker was killed, and it cannot be removed: {error}"
    sys.stderr.write(f"{said}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
