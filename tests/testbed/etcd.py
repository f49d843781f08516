"""Real etcd servers for tests, one or several, that may be killed, frozen, emptied and asked who leads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.testbed.certificates import CertificatePair
from tests.testbed.polling import eventually
from tests.testbed.ports import free_ports

START_TIMEOUT_S = 20.0
# etcdctl gives up after 5 s, and after 2 s on a login (the timeout of a dial bounds it); an etcd among many other tests
# may need longer.
PATIENCE = ("--dial-timeout=15s", "--command-timeout=15s")


class Member:
    """One etcd process. It keeps its ports, and its data unless they are lost on purpose."""

    def __init__(self, number: int, folder: Path, client_url: str, peer_url: str) -> None:
        """Values only; `Etcd` makes it."""
        self.name = f"m{number}"
        self.client_url = client_url
        self.peer_url = peer_url
        self.frozen = False
        self._data = folder / f"{self.name}.etcd"
        self._log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str]) -> None:
        """Start it; `words` come before the flags for its name, place and data."""
        argv = [*words, "--name", self.name, "--data-dir", str(self._data)]
        argv += ["--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url]
        argv += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as a power cut would. Harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process, self.frozen = None, False

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does: the kernel still takes connections and data for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.frozen = False

    def lose_data(self) -> None:
        """Forget everything that etcd wrote down."""
        assert self._process is None
        shutil.rmtree(self._data)

    def restore(self, backup: Path, words: Sequence[str]) -> None:
        """Make its data from a backup, as the member of a new cluster. It has none; `words` name the cluster."""
        argv = ["etcdctl", "snapshot", "restore", str(backup), "--name", self.name, "--data-dir", str(self._data)]
        argv += ["--initial-advertise-peer-urls", self.peer_url, *words]
        subprocess.run(argv, env={**os.environ, "ETCDCTL_API": "3"}, check=True, capture_output=True, timeout=60)

    def log_text(self) -> str:
        """All that it has logged."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it can answer. An end that nobody asked for is a failed test."""
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"etcd ended by itself\n{self.log_text()[-4000:]}")
        return self._process is not None and not self.frozen


class Etcd:
    """One etcd cluster: a member at each of `hosts`, with a certificate each if there are `certificates`."""

    def __init__(
        self,
        folder: Path,
        *,
        hosts: Sequence[str] = ("127.0.0.1",),
        client_port: int | None = None,
        inside: Sequence[str] = (),
        certificates: Sequence[CertificatePair] = (),
        authority: Path | None = None,
        client_certificate: CertificatePair | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """Values only. `inside` are words before every command, to run it in a namespace; ports are free unless given.

        With `client_certificate`, which etcdctl shows, no client is let in without one by `authority`.
        """
        scheme = "https" if certificates else "http"
        free = [] if client_port else free_ports((*hosts, *("127.0.0.1" for _ in hosts)))
        self.members = [
            Member(
                number,
                folder,
                f"{scheme}://{host}:{client_port or free[number]}",
                f"http://127.0.0.1:{2380 + number if client_port else free[len(hosts) + number]}",
            )
            for number, host in enumerate(hosts)
        ]
        self._inside = list(inside)
        self._certificates = certificates
        self._authority = authority
        self._client_certificate = client_certificate
        self._flags = list(flags)
        self._user: str | None = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs that clients use."""
        return tuple(member.client_url for member in self.members)

    def start(self, *, wait: bool = True) -> None:
        """Start every member that does not run, and wait until they answer."""
        for number, member in enumerate(self.members):
            if not member.running:
                member.start([*self._inside, "etcd", *self._words(number)])
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until every member that is not frozen or killed serves clients."""
        eventually("etcd answers", self._answers, timeout_s=START_TIMEOUT_S)

    def trust(self, authority: Path, certificates: Sequence[CertificatePair]) -> None:
        """Begin with other certificates the next time."""
        self._authority, self._certificates = authority, certificates

    def stop(self) -> None:
        """End all members; their data stays."""
        for member in self.members:
            member.kill()

    def lose_data(self) -> None:
        """Forget everything, users and members included."""
        for member in self.members:
            member.lose_data()

    def save(self, backup: Path) -> None:
        """Write a backup of what etcd holds."""
        backup.unlink(missing_ok=True)
        done = self._ctl(["snapshot", "save", str(backup)], members=[one for one in self.members if one.running][:1])
        assert done.returncode == 0, done.stderr

    def restore(self, backup: Path) -> None:
        """Begin anew from a backup, once all members are down: the revision goes back. Source: etcd's manual."""
        self.lose_data()
        for member in self.members:
            member.restore(backup, ["--initial-cluster", self._cluster()])

    def freeze(self) -> None:
        """Freeze all members."""
        for member in self.members:
            member.freeze()

    def thaw(self) -> None:
        """Let all members go on."""
        for member in self.members:
            member.thaw()

    def leader(self) -> Member:
        """The member that the running ones follow."""

        def found() -> list[Member]:
            answers = json.loads(self.ctl("endpoint", "status", "--write-out=json"))
            statuses = {one["Endpoint"]: one["Status"] for one in answers}
            leading = [url for url, status in statuses.items() if status["leader"] == status["header"]["member_id"]]
            return [one for one in self.members if one.client_url in leading]

        return eventually("etcd has a leader", found)[0]

    def ctl(self, *words: str, stdin: str = "") -> str:
        """What etcdctl prints, run by root of etcd against the members that can answer."""
        done = self._ctl(words, stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def compact(self) -> None:
        """Forget all revisions before the present one."""
        status: list[dict[str, Any]] = json.loads(self.ctl("endpoint", "status", "--write-out=json"))
        self.ctl("compaction", str(max(one["Status"]["header"]["revision"] for one in status)))

    def enable_auth(self, user: str, password: str, *, prefix: str) -> None:
        """From now on ask for a login. `user` may read and write below `prefix`; root may do everything."""
        self.ctl("user", "add", "root:root-secret")
        self.ctl("role", "add", "network")
        self.ctl("role", "grant-permission", "network", "--prefix=true", "readwrite", prefix)
        self.ctl("user", "add", f"{user}:{password}")
        self.ctl("user", "grant-role", user, "network")
        self.enable_auth_of("root", "root-secret")

    def enable_auth_of(self, root: str, password: str) -> None:
        """From now on ask for a login. The user is there, and is made etcd's root."""
        self.ctl("user", "grant-role", root, "root")
        self.ctl("auth", "enable")
        self.log_in(root, password)

    def log_in(self, user: str, password: str) -> None:
        """From now on etcdctl is run by this user."""
        self._user = f"{user}:{password}"

    def _words(self, number: int) -> list[str]:
        words = ["--initial-cluster", self._cluster(), *self._flags]
        if self._certificates:
            pair = self._certificates[number]
            words += ["--cert-file", str(pair.certificate), "--key-file", str(pair.key)]
        if self._client_certificate is not None:
            words += ["--client-cert-auth", "--trusted-ca-file", str(self._authority)]
        return words

    def _cluster(self) -> str:
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def _answers(self) -> bool:
        return self._ctl(["endpoint", "health"]).returncode == 0

    def _ctl(
        self, words: Sequence[str], stdin: str = "", members: Sequence[Member] | None = None
    ) -> subprocess.CompletedProcess[str]:
        members = members or [member for member in self.members if member.running]
        endpoints = ",".join(member.client_url for member in members)
        argv = [*self._inside, "etcdctl", *PATIENCE, f"--endpoints={endpoints}"]
        if self._authority is not None:
            argv.append(f"--cacert={self._authority}")
        if self._client_certificate is not None:
            argv += [f"--cert={self._client_certificate.certificate}", f"--key={self._client_certificate.key}"]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        if self._user is not None:
            environment["ETCDCTL_USER"] = self._user
        return subprocess.run(
            [*argv, *words], input=stdin, capture_output=True, text=True, env=environment, check=False, timeout=40
        )
