"""Runs etcdctl, which makes users and roles. It gets passwords by standard input and its environment only."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etcd_container.problem import Problem, Refused

_COMMAND_S = 20
# etcdctl itself gives up after 5 s, and after 2 s on a login (the timeout of a dial bounds it); an etcd on a busy disk
# takes longer. Less than the above, for its own words.
_PATIENCE = ("--dial-timeout=15s", "--command-timeout=15s")
_ANSWERS_S = 30.0
# Answers of etcd to a client without a login. The second comes when a certificate names a user who may not do it.
_LOGIN_WANTED = ("user name is empty", "permission denied")


def plain(text: str) -> str:
    """A text of etcd or others, without characters that a terminal would take for a command."""
    return "".join(one if one.isprintable() else "?" for one in text)


class Login(NamedTuple):
    """A user of etcd's."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


class Failed(Exception):
    """etcdctl failed; the message is its own, without its log."""


class Ctl:
    """etcdctl with its variables ETCDCTL_…; the words and the login are given to each call."""

    def __init__(self, variables: Mapping[str, str], *, folder: Path | None = None) -> None:
        """`folder` is the folder that it runs in: the path of a socket is relative to it."""
        self.variables = {name: value for name, value in variables.items() if name.startswith("ETCDCTL_")}
        # With this one etcdctl would print its environment.
        self.variables.pop("ETCDCTL_DEBUG", None)
        self._folder = folder

    def run(self, *words: str, login: Login | None = None, stdin: str = "") -> str:
        """Run etcdctl to its end; what it prints. Raises Failed and Refused."""
        with_login = {"ETCDCTL_USER": login.user, "ETCDCTL_PASSWORD": login.password} if login else {}
        others = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")}
        try:
            done = subprocess.run(
                ["etcdctl", *_PATIENCE, *words],
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                # Keys and log lines may hold any bytes.
                errors="replace",
                check=False,
                timeout=_COMMAND_S,
                cwd=self._folder,
                env={**others, **self.variables, "ETCDCTL_API": "3", **with_login},
            )
        except FileNotFoundError:
            raise Refused(Problem("there is no etcdctl", "install etcd's client: etcd-client, or etcd")) from None
        except subprocess.TimeoutExpired:
            raise Failed(f"etcdctl {words[0]} {words[1]} does not end within {_COMMAND_S} s") from None
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line and not line.startswith("{")]
            raise Failed(plain(said[-1].removeprefix("Error: ") if said else f"status {done.returncode}"))
        return done.stdout

    def document(self, *words: str, login: Login | None = None) -> dict[str, Any]:
        """Run etcdctl; the JSON object that it prints. Raises Failed and Refused."""
        try:
            found = json.loads(self.run(*words, "--write-out=json", login=login))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Failed(f"etcdctl {' '.join(words)}: what it printed is no object of JSON")
        return found

    def asks_for_login(self) -> bool:
        """Whether authentication is on. Waits for etcd to answer; raises Refused when it does not in half a minute."""
        deadline = time.monotonic() + _ANSWERS_S
        while True:
            try:
                self.run("user", "list", "--dial-timeout=2s", "--command-timeout=2s")
            except Failed as error:
                if any(word in str(error) for word in _LOGIN_WANTED):
                    return True
                if time.monotonic() > deadline:
                    where = self.variables.get("ETCDCTL_ENDPOINTS", "its default address")
                    what = f"etcd at {where} does not answer: {error}"
                    raise Refused(Problem(what, "is it running? with https:// also: --cacert, --cert, --key")) from None
                time.sleep(0.2)
            else:
                return False
