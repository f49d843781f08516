"""Makes etcd's users and their roles what they should be, whatever etcd has now, and switches authentication on.

The order of the steps is such that each may be the last before a power cut: passwords are in files before etcd gets
them, and authentication is switched on when everybody can log in. The next run goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from etcd_container import passwords, rights
from etcd_container.ctl import Ctl, Failed, Login
from etcd_container.problem import Problem, Refused

ROOT = "root"


class DesiredUsers(NamedTuple):
    """The users of one network by their roles, and the folder with their passwords.

    With `switch_on` authentication is switched on even where others keep keys in this etcd: they need a login then.
    """

    folder: Path
    prefix: str
    roles: dict[str, list[rights.Right]]
    switch_on: bool


def ensure(ctl: Ctl, desired: DesiredUsers, report: Callable[[str], None]) -> None:
    """Make users and roles the desired ones. Raises Refused when nothing was changed, and Failed: then run it again."""
    on = ctl.asks_for_login()
    if not on and not desired.switch_on:
        _refuse_for_others(ctl, desired.prefix)
    root = _root(ctl, desired.folder, on)
    known = _users(ctl, root)
    etcd = _Etcd(ctl, root, known, on, report)
    found = {role: etcd.rights_of(role) for role in desired.roles}
    for role, there in found.items():
        _refuse_other_rights(desired.prefix, role, there or [])
    logins = [_login(desired.folder, user, user in known) for user in desired.roles]
    for login in (root, *logins):
        etcd.ensure_user(login)
    for role, there in found.items():
        etcd.ensure_role(role, there, desired.roles[role])
    for user in (ROOT, *desired.roles):
        etcd.ensure_roles_of(user, user)
    if not on:
        ctl.run("auth", "enable", login=root)
        report("authentication is on")
    for login in logins:
        ctl.run("get", f"{desired.prefix}/config", login=login)
    if not ctl.asks_for_login():
        raise Failed("authentication was switched on, and etcd still asks nobody for a login")


class _Etcd(NamedTuple):
    """Changes etcd as its user root. `known` are its users; `on` says whether it asked for logins before."""

    ctl: Ctl
    root: Login
    known: list[str]
    on: bool
    report: Callable[[str], None]

    def run(self, *words: str, stdin: str = "") -> None:
        self.ctl.run(*words, login=self.root, stdin=stdin)

    def rights_of(self, role: str) -> list[rights.Right] | None:
        """Those of a role; None where there is no such role."""
        try:
            return rights.granted(self.ctl.document("role", "get", role, login=self.root))
        except Failed as error:
            if "role name not found" in str(error):
                return None
            raise

    def ensure_user(self, login: Login) -> None:
        """Make a user, or give it this password."""
        if login.user not in self.known:
            self.run("user", "add", login.user, "--interactive=false", stdin=f"{login.password}\n")
            self.report(f"user {login.user} made")
        elif not self.on or not self._lets_in(login):
            self.run("user", "passwd", login.user, "--interactive=false", stdin=f"{login.password}\n")
            self.report(f"user {login.user} has the password of its file")

    def _lets_in(self, login: Login) -> bool:
        try:
            self.ctl.run("get", "/", login=login)
        except Failed as error:
            # That the user may not read that key shows that the login was accepted.
            return "authentication failed" not in str(error)
        return True

    def ensure_role(self, role: str, there: list[rights.Right] | None, desired: list[rights.Right]) -> None:
        """Give a role these rights and no others."""
        if there is None:
            self.run("role", "add", role)
        # New rights are granted before old ones are revoked, so that hosts go on working.
        for right in desired:
            if right not in (there or []):
                self.run("role", "grant-permission", role, *right.words())
                self.report(f"role {role} may {' '.join(right.words())}")
        places = [right.place() for right in desired]
        for right in there or []:
            if right.place() not in places:
                self.run("role", "revoke-permission", role, *right.place())
                self.report(f"role {role} may no longer {' '.join(right.words())}")

    def ensure_roles_of(self, user: str, desired: str) -> None:
        """Give a user this role and, but for root, no other."""
        found = self.ctl.document("user", "get", user, login=self.root).get("roles") or []
        if desired not in found:
            self.run("user", "grant-role", user, desired)
        for role in found:
            if role != desired and user != ROOT:
                self.run("user", "revoke-role", user, role)
                self.report(f"user {user} no longer has the role {role}")


def _root(ctl: Ctl, folder: Path, on: bool) -> Login:
    """The login of root, whose password is in its file. While authentication is off, etcd ignores a login."""
    path = passwords.file_of(folder, ROOT)
    password = passwords.read(path)
    if password is None:
        if on or ROOT in _users(ctl, None):
            why = "asks for a login" if on else "has a user root already"
            hint = f"write root's password into {path}, mode 0600, and run this again"
            raise Refused(Problem(f"etcd {why}, and there is no {path}", hint))
        password = passwords.make(path)
    root = Login(ROOT, password)
    if on:
        try:
            _users(ctl, root)
        except Failed as error:
            what = f"etcd does not let root in with the password in {path}: {error}"
            raise Refused(Problem(what, "write root's password there; nothing was changed")) from None
    return root


def _refuse_for_others(ctl: Ctl, prefix: str) -> None:
    """Raises Refused where etcd asks for no login and has keys of others, who could not reach them with logins."""
    for words in (["\x01", f"{prefix}/"], [f"{prefix}0", "--from-key"]):
        found = [key for key in ctl.run("get", "--keys-only", "--limit=2", *words).split("\n") if key]
        other = next((key for key in found if key != prefix), None)
        if other is not None:
            what = f"others keep keys in this etcd, as {other[:80]!a}, and whoever has no login could not reach them"
            hint = "give them users and roles first, then say --switch-on; or use an etcd of your own"
            raise Refused(Problem(what, hint))


def _refuse_other_rights(prefix: str, role: str, there: list[rights.Right]) -> None:
    for right in there:
        if not right.within(prefix):
            what = f"the role {role} may {right.kind} {right.key[:80]!a} too, which is not below {prefix}/"
            hint = f"another network has another user: --user NAME; or take it away: etcdctl role delete {role}"
            raise Refused(Problem(what, hint))


def _login(folder: Path, user: str, known: bool) -> Login:
    path = passwords.file_of(folder, user)
    password = passwords.read(path)
    if password is None and known:
        hint = f"write it there; or etcdctl user delete {user}, and a new one is made; or name another: --user NAME"
        raise Refused(Problem(f"etcd has a user {user}, and its password is not in {path}", hint))
    return Login(user, password or passwords.make(path))


def _users(ctl: Ctl, root: Login | None) -> list[str]:
    found = ctl.document("user", "list", login=root).get("users") or []
    return [str(user) for user in found]
