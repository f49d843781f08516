"""Small root filesystems of other Debian releases, with an rpm of their own, to install the package in and run it.

They are made from the machine's own Debian mirror and keys, once, and kept below build/cache: unpacked, not configured,
which is enough for rpm, iproute2 and iptables, and takes half a minute. Whoever changes something works in a copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images.bases.debian import sources
from images.engine import sandbox
from images.engine.errors import BuildError
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.lib import process

ROOT = Path(__file__).resolve().parents[3]
CACHE = Path("build/cache/roots")
_BOOTSTRAP_S = 600.0
_PACKAGES = (
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "iproute2",
    "iptables",
    "libc-bin",
    "rpm",
    "sed",
)
_EMPTIED = ("dev", "usr/share/doc", "usr/share/man", "usr/share/locale")
# What Debian's maintainer scripts would have done: the link that `update-alternatives` makes.
_FINISH = """\
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -s xtables-nft-multi /usr/sbin/$name
done
mkdir -p /var/lib/rpm /root /tmp
chmod 1777 /tmp
"""


class NoSuchRelease(OverlaydError):
    """This machine has no Debian mirror, or one that does not have that release, or not any more."""


@dataclass(frozen=True, kw_only=True)
class DebianRoot:
    """A Debian release as a root filesystem; `finish` is a script that runs in it when it has been unpacked."""

    suite: str
    packages: tuple[str, ...] = ()
    finish: str = ""

    def place(self) -> Path:
        """Where it is kept; another description has another place."""
        return (
            ROOT
            / CACHE
            / f"{self.suite}-{hashlib.sha256(repr((self, _PACKAGES, _EMPTIED, _FINISH)).encode()).hexdigest()[:12]}"
        )


# A glibc that is older than the one of any base here (2.31), and one that is newer (2.41).
OLDER = DebianRoot(suite="bullseye")
# It has SELinux' reference policy too. Its modules' file contexts are laid side by side: to install the modules would
# compile the policy, half a minute's work, and the labels by location come out the same.
CONTEXTS = "/file_contexts"
NEWER = DebianRoot(
    suite="trixie",
    packages=("bzip2", "selinux-policy-default", "selinux-utils", "semodule-utils"),
    finish=f"""\
for module in /usr/share/selinux/default/*.pp.bz2; do
    bzip2 -dc "$module" >/tmp/module.pp
    semodule_unpackage /tmp/module.pp /tmp/module /tmp/contexts
    cat /tmp/contexts >>{CONTEXTS}
done
rm -r /tmp/module* /tmp/contexts /usr/share/selinux
""",
)


def cached(release: DebianRoot) -> Path:
    """The root filesystem, made now if it is not there; nobody may write to it.

    Raises NoSuchRelease, and OverlaydError where it cannot be made. Interrupted, it leaves nothing.
    """
    place = release.place()
    if place.exists():
        return place
    mirror = _mirror()
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.parent):
        # Another run may have made it meanwhile.
        if not place.exists():
            _make(release, mirror, place)
    return place


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time makes roots; the kernel frees the lock of a killed one."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(release: DebianRoot, mirror: str, place: Path) -> None:
    sandbox.require("mmdebstrap", "unshare", "setpriv")
    _ask(mirror, release.suite)
    # What a killed run left has no final name; it goes with the next one.
    for old in place.parent.glob(".making-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as folder:
        root = Path(folder) / "root"
        _run(
            sandbox.isolated(
                [
                    *("mmdebstrap", "--mode=root", "--variant=extract", "--format=directory", "--skip=output/dev"),
                    f"--include={','.join((*_PACKAGES, *release.packages))}",
                    *('--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"'),
                    # Dates are not checked: a mirror may be a snapshot, and a testing suite's list is valid for a week.
                    '--aptopt=Acquire::Check-Valid-Until "false"',
                    *(release.suite, root, f"deb {mirror} {release.suite} main"),
                ]
            )
        )
        # Without its devices: whoever copies build/cache would read /dev/full without end.
        for name in _EMPTIED:
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
        _run(sandbox.inside(root, ["sh", "-euc", _FINISH + release.finish]))
        root.rename(place)


@contextmanager
def copied(release: DebianRoot) -> Iterator[Path]:
    """A copy of it that may be changed, for the length of the block."""
    original = cached(release)
    with tempfile.TemporaryDirectory(prefix="overlayd-root-") as folder:
        place = Path(folder) / "root"
        _run(["cp", "--archive", "--reflink=auto", original, place])
        yield place


def command(root: Path, argv: Sequence[str], *, variables: Mapping[str, str] | None = None) -> list[str]:
    """The command line that runs `argv` in the root, in namespaces of its own, but the caller's network."""
    path = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    given = [f"{name}={value}" for name, value in {"PATH": path, **(variables or {})}.items()]
    # A mount of its own, as a root is elsewhere: rpm 4.20 keeps its scriptlets' mounts to themselves, and checks.
    mounted = ["sh", "-euc", 'mount --bind "$0" "$0" && exec "$@"', root, *sandbox.inside(root, ["env", *given, *argv])]
    return [str(word) for word in sandbox.isolated(mounted)]


def _mirror() -> str:
    """The Debian mirror of this machine's own apt."""
    try:
        return sources.mirror()
    except BuildError as error:
        raise NoSuchRelease(str(error)) from error


def _ask(mirror: str, suite: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # apt's own downloader: it knows this machine's proxies.
        argv = ["/usr/lib/apt/apt-helper", "download-file", f"{mirror}/dists/{suite}/InRelease", f"{folder}/it"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode == 0:
        return
    output = (done.stderr or done.stdout).strip()
    if "404" in output:
        raise NoSuchRelease(f"this machine's Debian mirror has no {suite} (any more)")
    raise OverlaydError(f"this machine's Debian mirror does not answer: {output}")


def _run(argv: Sequence[str | Path]) -> None:
    try:
        process.run([str(word) for word in argv], timeout_s=_BOOTSTRAP_S)
    except CommandFailed as error:
        raise OverlaydError(f"no root filesystem to test in: {error.message}") from error
