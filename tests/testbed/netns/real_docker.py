"""Real Docker of several releases on a lab's hosts: its dockerd and containerd, in Debian's root of that release.

A release's root is made once (tests/testbed/cluster/roots.py) and never written to: each host has it under an overlay
of its own, in mount and process namespaces whose first process is a child of the test's. When that ends, however that
was, the kernel ends dockerd, containerd and all containers, and drops every mount. The network is the lab host's; the
control groups are the machine's, below a folder that is removed at the end.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import docker

from overlayd.lib import process
from tests.testbed.cluster import roots
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host
from tests.testbed.polling import eventually
from tests.testbed.processes import name_of

PUBLISHED, PUBLISHED_AS = 80, 8080
_IMAGE = "busybox"
# That of 20.10; all later ones here take it.
_API = "1.41"
_UP_S = 60.0
_CGROUPS = Path("/sys/fs/cgroup")
# What installing would have done; and dockerd looks its own host's name up, which must not wait for a dead DNS.
_FINISH = """\
rm -rf /var/run /etc/resolv.conf
ln -s /run /var/run
mkdir -p /var/lib/docker /var/lib/containerd /etc/docker
printf '127.0.0.1 localhost %s\\n' "$(cat /etc/hostname)" >/etc/hosts
echo 'hosts: files' >/etc/nsswitch.conf
"""
# The first process reaps what others leave: a child of somebody who ignores SIGCHLD leaves nothing.
_BOOT = """\
mkdir -p upper work root docker containerd
mount -t overlay -o lowerdir="$1",upperdir=upper,workdir=work overlay root
mount --bind docker root/var/lib/docker
mount --bind containerd root/var/lib/containerd
cd root
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p old
pivot_root . old
umount --lazy /old
exec env --ignore-signal=CHLD sleep infinity
"""


@dataclass(frozen=True, kw_only=True)
class DockerRelease:
    """A release of Docker as a Debian suite has it. `ipv6`: it writes IPv6 rules without being asked (27 and later).

    `closes`: it drops what comes to a published port by the container's own address (28 and later).
    """

    name: str
    suite: str
    ipv6: bool = False
    closes: bool = False

    def root(self) -> Path:
        """Its root, made now if it is not there. Raises as `roots.cached` does."""
        packages = ("busybox-static", "docker.io", "mount")
        return roots.cached(roots.DebianRoot(suite=self.suite, packages=packages, finish=_FINISH))


RELEASES = [
    DockerRelease(name="20.10", suite="bookworm"),
    DockerRelease(name="26.1", suite="trixie"),
    DockerRelease(name="28.5", suite="forky", ipv6=True, closes=True),
]


class Docker:
    """The docker of one lab host; `installed` makes it. Containers are network namespaces of the lab's, too."""

    def __init__(self, host: Host, release: DockerRelease, folder: Path) -> None:
        """Values only."""
        self.host = host
        self.release = release
        self.folder = folder
        # Control groups are the whole machine's: this process's name is in them, as in the namespaces'.
        self._group = host.namespace
        self._machine: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._names: list[str] = []

    def boot(self) -> None:
        """Bring up the root and containerd; no dockerd yet."""
        self.folder.mkdir()
        argv = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.host.namespace}"]
        argv += ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL"]
        argv += ["sh", "-euc", _BOOT, "sh", str(self.release.root())]
        with (self.folder / "boot.log").open("ab") as log:
            self._machine = subprocess.Popen(
                argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
            )
        eventually("its root is there", self._booted)
        self._containerd = self._spawn("containerd")
        eventually("containerd listens", lambda: self._inside("run/containerd/containerd.sock").exists())
        # A host's firewall programs are of one release, for whoever calls them there.
        for name in ("iptables", "ip6tables"):
            for suffix in ("", "-save", "-restore"):
                self.host.install(name + suffix, f'exec {shlex.join(self.enter(net=False))} {name}{suffix} "$@"')

    def start_for_lease(self) -> None:
        """Start dockerd as its unit would, with what docker.env has at that moment."""
        text = (self.host.run_dir / "docker.env").read_text()
        self.start(*shlex.split(shlex.split(text.partition("=")[2])[0]))

    def start(self, *options: str) -> None:
        """Start dockerd with these options, and wait until it answers."""
        argv = ["dockerd", "--containerd=/run/containerd/containerd.sock", f"--cgroup-parent=/{self._group}"]
        self._dockerd = self._spawn(*argv, *options)
        eventually("dockerd answers", self.answers, timeout_s=_UP_S)

    def signal(self, number: signal.Signals) -> None:
        """Send dockerd a signal; the ones that end it are waited for."""
        assert self._dockerd is not None
        (child,) = _children(self._dockerd.pid)
        os.kill(child, number)
        if number != signal.SIGHUP:
            self._dockerd.wait(60)
            self._dockerd = None

    def configure(self, text: str) -> None:
        """Write daemon.json, which the next start or SIGHUP reads."""
        self._inside("etc/docker/daemon.json").write_text(text)

    def answers(self) -> bool:
        """Whether dockerd takes requests."""
        if self._dockerd is not None and self._dockerd.poll() is not None:
            raise AssertionError(f"dockerd {self.release.name} ended\n{self.log('dockerd')}")
        # The SDK leaves a connection open that was refused.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as found:
            found.connect(self._socket)
            with self.api() as api:
                return bool(api.ping())
        return False

    @contextmanager
    def api(self) -> Iterator[Any]:
        """Docker's own API, for the length of the block."""
        found = docker.APIClient(base_url=f"unix://{self._socket}", version=_API, timeout=60)
        try:
            yield found
        finally:
            found.close()

    def run(self, name: str, *, published: bool = False, **host_config: Any) -> IPv4Address:
        """Run a container that does nothing, whose namespace then has that name; its address.

        `published`: its port 80 is the host's 8080.
        """
        with self.api() as api:
            if not api.images(_IMAGE):
                api.import_image_from_data(_busybox(self.release.root()), repository=_IMAGE)
            ports = {PUBLISHED: PUBLISHED_AS} if published else {}
            config = api.create_host_config(port_bindings=ports, restart_policy={"Name": "always"}, **host_config)
            words = ["/bin/busybox", "sleep", "86400"]
            # It is the first process, which a SIGTERM would not end.
            more = {"ports": list(ports), "host_config": config, "stop_signal": "SIGKILL"}
            api.create_container(_IMAGE, words, name=name, **more)
            api.start(name)
        self.find(name)
        return self.address(name)

    def drop(self, name: str) -> None:
        """Remove a container."""
        with self.api() as api:
            api.remove_container(name, force=True)
        self._names.remove(name)
        namespaces.remove(name)

    def find(self, name: str) -> None:
        """Let a namespace of the lab's be that of this container, started just now or again."""
        if name in self._names:
            self._names.remove(name)
            namespaces.remove(name)
        key = self.inspect(name)["NetworkSettings"]["SandboxKey"]
        place = Path("/run/netns") / name
        place.touch()
        process.run(["mount", "--bind", str(self._inside(key.removeprefix("/var/").lstrip("/"))), str(place)])
        self._names.append(name)

    def inspect(self, name: str) -> dict[str, Any]:
        """What docker says of a container."""
        with self.api() as api:
            found: dict[str, Any] = api.inspect_container(name)
            return found

    def address(self, name: str) -> IPv4Address:
        """A container's address on docker0."""
        return IPv4Address(self.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])

    def address6(self, name: str) -> IPv6Address:
        """Its IPv6 address there."""
        found = ip_address(self.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["GlobalIPv6Address"])
        assert isinstance(found, IPv6Address)
        return found

    def command(self, *argv: str) -> str:
        """Run a command of its root on the host; what it printed."""
        return process.run([*self.enter(), *argv], env=_environment())

    def enter(self, *, net: bool = True) -> list[str]:
        """The words that bring a command into its root; `net`: and into the host's network."""
        assert self._machine is not None
        (first,) = _children(self._machine.pid)
        return ["nsenter", f"--target={first}", "--mount", "--pid", *(["--net"] if net else [])]

    def log(self, name: str) -> str:
        """The end of the log of dockerd or containerd."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def dump(self) -> str:
        """The ends of all logs, for the report of a failed test."""
        return "\n".join(f"-- {path.name}\n{self.log(path.stem)}" for path in sorted(self.folder.glob("*.log")))

    def remove(self) -> None:
        """End all of it, at once."""
        for name in self._names:
            namespaces.remove(name)
        for one in (self._machine, self._dockerd, self._containerd):
            if one is not None:
                one.kill()
                one.wait()
        # The groups are empty when the kernel has ended the last process.
        eventually("the control groups are gone", lambda: not _remove_groups(self._group))

    @property
    def _socket(self) -> str:
        return str(self._inside("run/docker.sock"))

    def _spawn(self, *argv: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{argv[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [*self.enter(), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
            )

    def _booted(self) -> bool:
        assert self._machine is not None
        assert self._machine.poll() is None, (self.folder / "boot.log").read_text()
        # It ends in another program than it begins with.
        return any(name_of(child) == "sleep" for child in _children(self._machine.pid))

    def _inside(self, path: str) -> Path:
        assert self._machine is not None
        (first,) = _children(self._machine.pid)
        return Path(f"/proc/{first}/root/{path}")


@contextmanager
def installed(hosts: Sequence[Host], release: DockerRelease) -> Iterator[dict[str, Docker]]:
    """A docker of that release on each host, by the hosts' names, booted and not started; until the block ends."""
    _sweep()
    made = {host.name: Docker(host, release, host.run_dir.parent / "docker") for host in hosts}
    try:
        for one in made.values():
            one.boot()
        yield made
    finally:
        for one in made.values():
            one.remove()


def _remove_groups(name: str) -> bool:
    """Remove the control groups of that name, and whether any is left: a process is in it."""
    tops = [*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")]
    for top in tops:
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    return any(top.exists() for top in tops)


def _sweep() -> None:
    """Remove the control groups of a run that was killed; all else of it the kernel has removed."""
    for path in (*_CGROUPS.glob(f"{namespaces.PREFIX}-*"), *_CGROUPS.glob(f"*/{namespaces.PREFIX}-*")):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _remove_groups(path.name)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _environment() -> Mapping[str, str]:
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def _busybox(root: Path) -> bytes:
    """An image's only layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(root / "bin/busybox", "bin/busybox")
    return out.getvalue()
