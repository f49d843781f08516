"""etcd-setup as tests run it, and etcdctl as its users."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from etcd_container import passwords, rights
from etcd_container.ctl import Ctl, Failed, Login
from tests.testbed.etcd import Etcd

COMMAND = Path(__file__).parents[3] / "images/etcd/files/usr/bin/etcd-setup"
PREFIX = rights.PREFIX
USERS = ("root", "overlayd", "overlayd-admin")
# Runs etcdctl, writes its words down, and kills whoever called it: before or after the call of a number.
SPY = """#!/bin/sh
echo "$*" >>{folder}/words
calls=$(wc -l <{folder}/words)
[ "{when}$calls" != "before{number}" ] || {{ kill -KILL $PPID; exit 1; }}
{etcdctl} "$@"
status=$?
[ "{when}$calls" != "after{number}" ] || kill -KILL $PPID
exit $status
"""


def setup(
    *words: object, path: Path | None = None, variables: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """The command, as a process; programs are looked for in `path` first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ETCD_", "ETCDCTL_"))}
    environment.update(variables)
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        [sys.executable, "-IB", COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )


def set_up(etcd: Etcd, folder: Path, *words: object) -> str:
    done = setup(f"--endpoints={etcd.endpoints[0]}", *words, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ctl(etcd: Etcd) -> Ctl:
    return Ctl({"ETCDCTL_ENDPOINTS": etcd.endpoints[0]})


def login(folder: Path, user: str) -> Login:
    password = passwords.read(passwords.file_of(folder, user))
    assert password is not None
    return Login(user, password)


def allowed(etcd: Etcd, who: Login | None, *words: str) -> bool:
    try:
        ctl(etcd).run(*words, login=who)
    except Failed as error:
        if "permission denied" in str(error) or "user name is empty" in str(error):
            return False
        raise
    return True


def spy(folder: Path, when: str = "never", number: int = 0) -> Path:
    """A folder with an etcdctl that tells what it was told, and that kills."""
    folder.mkdir(parents=True)
    file = folder / "etcdctl"
    file.write_text(SPY.format(folder=folder, etcdctl=shutil.which("etcdctl"), when=when, number=number))
    file.chmod(0o755)
    return folder
