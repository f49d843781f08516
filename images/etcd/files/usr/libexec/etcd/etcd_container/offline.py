"""Runs an etcd for a short time on the data of one that is not started yet, reached by a socket of our own.

What it is told there, the real one knows from its first second. There is no moment at which it asks nobody for a login.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from etcd_container import data, settings
from etcd_container.ctl import Ctl
from etcd_container.problem import Problem, Refused

USER = "etcd"
_END_S = 20
_SHOWN_LINES = 8
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def etcd(given: Mapping[str, str], *, address: str) -> Iterator[Ctl]:
    """Run it during the block, with the settings of the real one. Raises Refused when it cannot run.

    `given` are the variables; `address` is the container's own.
    """
    found = settings.complete(given, address)
    _check(found)
    with tempfile.TemporaryDirectory(prefix="etcd-setup-") as name, (Path(name) / "log").open("w+b") as log:
        folder = Path(name)
        # etcd takes the path of a socket for host and port, so it is relative to the folder that etcd runs in.
        argv = ["etcd", "--listen-client-urls", "unix://client:0", "--listen-peer-urls", "unix://peer:0"]
        variables = {key: value for key, value in found.items() if not _is_of_tls(key) and "_LISTEN_" not in key}
        variables["ETCD_ADVERTISE_CLIENT_URLS"] = "http://localhost:2379"
        variables.setdefault("ETCD_INITIAL_ADVERTISE_PEER_URLS", "http://localhost:2380")
        account = _account()
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        try:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_us,  # noqa: PLW1509  (there are no threads here)
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=() if account else None,
            )
        except FileNotFoundError:
            raise Refused(Problem("there is no etcd here", "name one that runs: --endpoints=URL")) from None
        try:
            # Wait for the socket here: etcdctl would wait for it even when etcd has ended.
            while not (folder / "client:0").exists():
                if process.poll() is not None:
                    raise Refused(_ended(log, process.returncode))
                time.sleep(0.05)
            yield Ctl({"ETCDCTL_ENDPOINTS": "unix://client:0"}, folder=folder)
        finally:
            _end(process)
    data.note(found)
    give(data.record(Path(found["ETCD_DATA_DIR"])))


def give(path: Path) -> None:
    """Give one of our files the owner that etcd runs as, as etcd's own files beside it have."""
    account = _account()
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def _check(found: Mapping[str, str]) -> None:
    if "ETCD_CONFIG_FILE" in found:
        hint = "give settings as variables ETCD_…; or start etcd, and say --endpoints=URL"
        raise Refused(Problem("ETCD_CONFIG_FILE is set, and --offline reads variables", hint))
    if len(settings.initial_cluster(found)) > 1:
        hint = "start its members, then say --endpoints=URL,URL,… in place of --offline"
        raise Refused(Problem("the cluster has several members (ETCD_INITIAL_CLUSTER)", hint))
    for problem in data.check(found):
        raise Refused(problem)


def _account() -> pwd.struct_passwd | None:
    """The account that etcd's data belongs to; None when we are not root, or there is no such account."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def _is_of_tls(name: str) -> bool:
    return name.endswith(("_FILE", "_TLS", "_CERT_AUTH"))


def _end_with_us() -> None:
    """For the child: make the kernel end etcd when this process ends in any way (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ended(log: IO[bytes], status: int) -> Problem:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()[-_SHOWN_LINES:]
    return Problem(
        f"etcd ended with status {status}; it said\n  " + "\n  ".join(lines), "see to that, and run this again"
    )
