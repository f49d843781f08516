"""Measure builds: everything from nothing, nothing changed, and the way of one changed line of the daemon to a host.

They are real builds in a new clone of the checkout's last commit, with their own build folder and their own dockerd
without images. All of it is in one temporary folder and is removed with it, also on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException

from images.engine import process, sandbox
from images.engine.errors import BuildError
from overlayd.errors import CommandFailed, OverlaydError
from tests.testbed.cluster import cgroups
from tests.testbed.polling import eventually

ROOT = Path(__file__).resolve().parents[2]
# The requirement for the reference machine, in s (issue 4).
FROM_NOTHING, UNCHANGED, UPGRADED = (
    "all images and the RPM, from an empty cache",
    "the same again, nothing changed",
    "from a changed line of the daemon to an upgraded host",
)
LIMITS_S = {FROM_NOTHING: 300, UNCHANGED: 2, UPGRADED: 60}
# Measured: 2.6 GiB for the build folder, and as much again for images.
_NEEDED_BYTES = 8 << 30
_DOCKERD_S = 60.0
_REPEAT = 3


def measure(base: str, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """By build: seconds, the allowed seconds, and the parts if there are any.

    Raises OverlaydError, and BuildError if a build cannot start. SIGTERM ends it as Ctrl-C does.
    """
    sandbox.require_root_user()
    sandbox.require("git", "dockerd", "unshare")
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < _NEEDED_BYTES:
        raise OverlaydError(
            f"{tempfile.gettempdir()} has {free >> 30} GiB left, and builds from nothing need {_NEEDED_BYTES >> 30}",
            hint="make room, or name another folder in TMPDIR",
        )
    with tempfile.TemporaryDirectory(prefix="overlayd-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        clone = folder / "checkout"
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            _run(["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT, {}, folder)
            with _dockerd(folder) as socket:
                return _measure(clone, folder, socket, base, say)
        finally:
            signal.signal(signal.SIGTERM, before)


def _measure(
    clone: Path, folder: Path, socket: str, base: str, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    # The clone's code runs with the checkout's interpreter and libraries. The clone is the working directory but not in
    # PYTHONPATH, as its rpm/ would hide the module rpm from dnf. pip uses no cache, so it fetches again too.
    env = {"DOCKER_HOST": socket, "PYTHONPATH": str(clone / "daemon"), "PIP_NO_CACHE_DIR": "1"}
    build_all = [sys.executable, "-m", "invoke", "build-all", "--base", base]

    def timed(*argv: str) -> float:
        began = time.monotonic()
        _run(argv, clone, env, folder)
        return time.monotonic() - began

    say("measuring a build from nothing")
    found = {FROM_NOTHING: timed(*build_all)}
    say("measuring a build with nothing changed")
    found[UNCHANGED] = statistics.median(timed(*build_all) for _ in range(_REPEAT))
    lines = (folder / "log").read_text(errors="replace").rstrip().splitlines()
    if not lines[-1].startswith("nothing to do"):
        raise OverlaydError(f"a build with nothing changed says: {lines[-1]}", hint="invoke images.why says more")
    say("measuring the way of a changed line to a host")
    figure = folder / "upgrade.json"
    _run([sys.executable, "-m", "tests.perf.upgrade", base, str(figure)], clone, env, folder)
    parts = json.loads(figure.read_text())
    found[UPGRADED] = sum(parts.values())
    document: dict[str, dict[str, Any]] = {
        what: {"s": round(seconds, 2), "limit_s": LIMITS_S[what]} for what, seconds in found.items()
    }
    document[UPGRADED]["parts_s"] = {part: round(seconds, 2) for part, seconds in parts.items()}
    return document


def _run(argv: list[str] | tuple[str, ...], cwd: Path, env: dict[str, str], folder: Path) -> None:
    """Run a command with its output in folder/log. Raises CommandFailed with the end of the output."""
    with (folder / "log").open("wb", buffering=0) as log:
        try:
            process.run(argv, log=log, stop=process.Stop(), cwd=cwd, env=env, base_env=os.environ)
        except BuildError as error:
            raise CommandFailed(error.message) from error


@contextmanager
def _dockerd(folder: Path) -> Iterator[str]:
    """Run a dockerd without images, in namespaces of its own, during the block; its address.

    When it ends, the kernel ends all processes in its namespaces and removes mounts and networks. It ends when we do.
    """
    socket = f"unix://{folder}/docker.sock"
    (folder / "daemon.json").write_text("{}")
    argv = ["dockerd", f"--host={socket}", f"--config-file={folder}/daemon.json", f"--pidfile={folder}/dockerd.pid"]
    argv += [f"--data-root={folder}/docker", f"--exec-root={folder}/exec"]
    script = 'ip link set lo up && exec "$@"'
    log = folder / "dockerd.log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            [str(word) for word in sandbox.isolated(["unshare", "--net", "sh", "-c", script, "sh", *argv])],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        eventually("dockerd answers", lambda: started.poll() is not None or _answers(socket), timeout_s=_DOCKERD_S)
        if started.poll() is not None:
            raise OverlaydError(f"dockerd ended: {log.read_text(errors='replace')[-2000:]}")
        yield socket
    finally:
        _remove_containers(socket)
        process.end(started)


def _answers(socket: str) -> bool:
    with contextlib.suppress(DockerException), contextlib.closing(docker.DockerClient(base_url=socket)) as client:
        return bool(client.ping())
    return False


def _remove_containers(socket: str) -> None:
    """Remove what an interrupted measurement left. Its processes end by themselves, but their cgroups stay."""
    with contextlib.suppress(DockerException), contextlib.closing(docker.DockerClient(base_url=socket)) as client:
        left = client.containers.list(all=True, ignore_removed=True)
        for container in left:
            with contextlib.suppress(DockerException):
                container.remove(force=True, v=True)
        cgroups.sweep([str(container.id) for container in left])
