"""Keys, packages, repositories and mirrors of the tests' own: real gpg, rpmbuild, createrepo_c, and HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from images.bases.base import Repository
from images.engine.graph import Target
from images.engine.oci import Layout
from images.engine.process import Stop
from images.engine.step import Step
from tests.testbed.answering import Handler, HttpReply

_SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: a package of the test
License: Apache-2.0
BuildArch: noarch
{more}
%description
A package of the test.
%files
"""


def command(*argv: str | Path, env: dict[str, str] | None = None, status: int = 0) -> str:
    """The output of a command that ends as it should."""
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class SigningKeys:
    """A GnuPG home with keys that need no passphrase."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {"GNUPGHOME": str(self.home), "HOME": str(self.home)}

    def gpg(self, *words: str | Path) -> str:
        return command("gpg", "--batch", "--yes", "--passphrase", "", *words, env=self.env)

    def make(self, name: str, *, usage: str = "sign", expires: str = "never", when: str = "") -> str:
        """A new key, `when` by gpg's clock; its fingerprint."""
        self.home.joinpath("gpg.conf").touch()
        clock = ["--faked-system-time", when] if when else []
        self.gpg(*clock, "--quick-generate-key", f"{name} <{name}@example.com>", "rsa2048", usage, expires)
        listed = self.gpg("--with-colons", "--list-keys", f"{name}@example.com")
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def public(self, *names: str) -> bytes:
        return self.gpg("--armor", "--export", *names).encode()

    def sign(self, name: str, *rpms: Path) -> None:
        """Put a signature into packages."""
        macros = ("--define", f"__gpg {shutil.which('gpg')}", "--define", f"_gpg_name {name}")
        command("rpmsign", *macros, "--addsign", *rpms, env=self.env)

    def detached(self, name: str, file: Path) -> None:
        self.gpg("--local-user", name, "--armor", "--output", f"{file}.asc", "--detach-sign", file)


@contextmanager
def gnupg(home: Path) -> Iterator[SigningKeys]:
    """A GnuPG home for the length of the block; its agent ends with it. The path must be short, for its socket."""
    home.mkdir(mode=0o700, exist_ok=True)
    home.chmod(0o700)
    try:
        yield SigningKeys(home)
    finally:
        command("gpgconf", "--kill", "gpg-agent", env={"GNUPGHOME": str(home)})


def build(folder: Path, name: str, more: str = "") -> Path:
    """An empty package in a folder. `more` are lines of its spec's preamble."""
    spec = folder.parent / f"{name}.spec"
    spec.write_text(_SPEC.format(name=name, more=more))
    top = folder.parent / "top"
    command("rpmbuild", "-bb", "--define", f"_topdir {top}", "--define", f"_rpmdir {top}", spec)
    folder.mkdir(exist_ok=True)
    return (top / f"noarch/{name}-1-1.noarch.rpm").rename(folder / f"{name}.rpm")


def index(folder: Path) -> None:
    """Make a folder of packages a repository."""
    command("createrepo_c", "--quiet", folder)


def repository(url: str, key_url: str, fingerprint: str, name: str = "test") -> Repository:
    return Repository(
        name=name,
        title=f"the repository {name}",
        site="centos",
        path="",
        url=url,
        key_url=key_url,
        key_fingerprint=fingerprint,
    )


@contextmanager
def a_step(folder: Path, target: Target) -> Iterator[Step]:
    """A step of a build in a folder of its own."""
    (folder / "scratch").mkdir(parents=True)
    with (folder / "log").open("wb", buffering=0) as log:
        yield Step(
            target=target,
            inputs={},
            root=folder,
            build=folder / "build",
            scratch=folder / "scratch",
            log=log,
            stop=Stop(),
            owner="test",
            epoch=1_700_000_000,
            layout=Layout(folder / "oci"),
        )


@contextmanager
def served(folder: Path, replies: Callable[[str], HttpReply | None]) -> Iterator[str]:
    """An HTTP server over a folder; its URL. `replies` may answer a path in another way than with the file."""

    def answer(path: str) -> HttpReply:
        reply = replies(path)
        if reply is not None:
            return reply
        file = folder / unquote(path).lstrip("/")
        return HttpReply(200, file.read_bytes()) if file.is_file() else HttpReply(404, b"not here")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.answer = answer  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
