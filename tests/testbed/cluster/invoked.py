"""Tasks run as a person runs them, in a process of their own: to their end, interrupted, or on a disk that is full."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.testbed.cluster.create import ROOT
from tests.testbed.polling import eventually

_INVOKE = (sys.executable, "-m", "invoke")
_TIMEOUT_S = 300.0
_BUILD_S = 1200.0


def invoke(
    *words: str | Path, env: Mapping[str, str] | None = None, root: Path = ROOT, timeout_s: float = _TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a task with its options to the end, in this checkout or another one (`root`)."""
    return _run([*_INVOKE, *map(str, words)], env, root, timeout_s)


def invoked_well(*words: str | Path, env: Mapping[str, str] | None = None, root: Path = ROOT) -> str:
    """The same for a build, which must succeed; its standard output."""
    done = invoke(*words, env=env, root=root, timeout_s=_BUILD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interrupted(*words: str, when: Callable[[], object], by: signal.Signals, begins_s: float = 120) -> tuple[int, str]:
    """A task that gets a signal once a condition holds, within `begins_s`; its exit status and its standard error."""
    with subprocess.Popen(
        [*_INVOKE, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually("it is under way", when, timeout_s=begins_s)
            process.send_signal(by)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


def on_a_full_disk(folder: Path, megabytes: int, *words: str) -> tuple[int, str, list[str]]:
    """A task while a small file system is mounted at `folder`: its exit status, its errors, and what is left there.

    The mount is in a namespace of its own, and gone with the process.
    """
    script = f"""
        mount -t tmpfs -o size={megabytes}m tmpfs {folder}
        status=0; {shlex.join([*_INVOKE, *words])} >/dev/null || status=$?
        echo $status; ls -A {folder}"""
    done = _run(["unshare", "--mount", "sh", "-euc", script])
    status, *left = done.stdout.split()
    return int(status), done.stderr, left


def _run(
    command: list[str], env: Mapping[str, str] | None = None, root: Path = ROOT, timeout_s: float = _TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=root,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
