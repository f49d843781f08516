"""Hosts as network namespaces: a switch, a real etcd, real daemons, and on each host a bridge and a container.

The underlay is 198.18.1.0/24 in every lab, with 2001:2:0:1::/64 beside it (RFC 2544, RFC 5180: nobody routes either);
labs do not see each other. The switch's namespace holds the bridge that joins the hosts, and etcd at 198.18.1.254.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface
from pathlib import Path
from typing import Any

from overlayd.lib import hostlock, process
from tests.testbed.etcd import PATIENCE, Etcd
from tests.testbed.netns import namespaces
from tests.testbed.netns.dump import dump
from tests.testbed.netns.segments import FAR, NEAR, Segment, make_router
from tests.testbed.netns.wireguard_devices import with_own_sockets
from tests.testbed.polling import eventually

NETWORK = IPv4Network("10.5.0.0/16")
NETWORK6 = IPv6Network("fd42::/48")
UNDERLAY, UNDERLAY6, SWITCH_ADDRESS = NEAR.network, NEAR.network6, NEAR.gateway
ETCD = f"http://{SWITCH_ADDRESS}:2379"
SOURCES = Path(__file__).parents[3] / "daemon"
_numbers = itertools.count(1)


class Host:
    """One host: its namespace, its daemon, and a container behind a bridge that stands for docker's."""

    def __init__(
        self,
        folder: Path,
        name: str,
        number: int,
        *,
        etcd_flags: Mapping[str, object],
        lease_ttl_s: int = 86400,
        settings: Mapping[str, object] | None = None,
        own_sockets: bool = False,
        segment: Segment = NEAR,
    ) -> None:
        """Values only; `Lab.host` makes it. `own_sockets`: wireguard-go has a folder of its own for sockets here."""
        self.name = name
        self.number = number
        self.segment = segment
        self.address = segment.network[number]
        self.address6 = segment.network6[number]
        own_folder = folder / f"{number}{name}"
        self.run_dir = own_folder / "run"
        self.state_dir = own_folder / "state"
        self.log = own_folder / "log"
        # Programs here are found before the machine's own.
        self.bin_dir = own_folder / "bin"
        self.bus = own_folder / "bus"
        # What the daemon is started through, if anything.
        self.launcher: tuple[str, ...] = ()
        self.sockets = own_folder / "wireguard"
        self._own_sockets = own_sockets
        self.name_namespaces()
        self._lease_ttl_s = lease_ttl_s
        self._etcd_flags = etcd_flags
        # Settings of this host alone, by flag.
        self.settings: dict[str, object] = dict(settings or {})
        self._daemon: subprocess.Popen[bytes] | None = None

    def name_namespaces(self) -> None:
        """Give namespaces and port names that no other boot had: the kernel takes its time to remove those."""
        number = next(_numbers)
        self.port = f"p{number}"
        self.namespace = namespaces.unique(f"{number}{self.name}")
        self.container = f"{self.namespace}c"
        self.enter = ["ip", "netns", "exec", self.namespace]
        if self._own_sockets:
            self.enter += with_own_sockets(self.sockets)

    def overlayd(self, *words: str) -> list[str]:
        """A command line of overlayd on this host."""
        flags = {
            **self._etcd_flags,
            "iface": "eth0",
            "run-dir": self.run_dir,
            "state-dir": self.state_dir,
            "resync-s": 2,
            "lease-ttl-s": self._lease_ttl_s,
            "fast-path": "off",  # before Linux 6.6 an interface that it comes to loses packets (kernel/tc.py)
            # Else the daemon would read this machine's own settings.
            "config-file": os.devnull,
            **self.settings,
        }
        settings = [f"--{name}={value}" for name, value in flags.items()]
        launcher = self.launcher if words[0] == "run" else ()
        return [*self.enter, *launcher, sys.executable, "-m", "overlayd", *words, *settings]

    def start(self, *flags: str, ready: bool = True) -> None:
        """Start the daemon, and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                self.overlayd("run", "--verbose", *flags),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
            )
        if ready:
            eventually(f"{self.name} ready", self._is_ready, timeout_s=60)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the daemon a signal and wait for its end; its exit status."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return 0
        daemon.send_signal(number)
        try:
            return daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            raise

    def runs(self) -> bool:
        """Whether the daemon that `start` started last is the one that wrote the status, and runs."""
        return self._daemon is not None and self._daemon.poll() is None and self.status().get("pid") == self._pid()

    def cleanup(self) -> str:
        """`overlayd cleanup` on this host; what it printed."""
        done = self.call("cleanup")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of overlayd on this host, run to its end."""
        return subprocess.run(
            self.overlayd(*words), capture_output=True, text=True, env=self.environment(), timeout=60, check=False
        )

    def environment(self) -> dict[str, str]:
        """The environment for overlayd on this host. Its D-Bus, and so the firewalld there, is not the machine's."""
        bus = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.bus}"}
        return {**environment(), **bus, "PATH": f"{self.bin_dir}:{os.environ['PATH']}"}

    def install(self, name: str, script: str) -> None:
        """Put a shell script into the place of a program, for overlayd on this host."""
        self.bin_dir.mkdir(exist_ok=True)
        path = self.bin_dir / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def status(self) -> dict[str, Any]:
        """The daemon's last status; empty before the first."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.run_dir / "status.json").read_text())
            return found
        return {}

    @property
    def subnet(self) -> IPv4Network:
        """The leased subnet, from the file that docker starts from."""
        return IPv4Interface(self._variables()["FLANNEL_SUBNET"]).network

    @property
    def subnet6(self) -> IPv6Network | None:
        """The leased IPv6 subnet, in a network that has IPv6."""
        found = self._variables().get("FLANNEL_IPV6_SUBNET")
        return IPv6Interface(found).network if found else None

    @property
    def subnets(self) -> list[IPv4Network | IPv6Network]:
        """The leased subnets, of each IP version that the network has."""
        found = map(self._variables().get, ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"))
        return [ip_interface(one).network for one in found if one]

    @property
    def container_address6(self) -> IPv6Address:
        """The container's own IPv6 address."""
        assert self.subnet6 is not None
        return self.subnet6[2]

    @property
    def mtu_bytes(self) -> int:
        """The MTU for containers, from the same file."""
        return int(self._variables()["FLANNEL_MTU"])

    @property
    def container_address(self) -> IPv4Address:
        """The container's own address."""
        return self.subnet[2]

    def start_container(self) -> None:
        """Make the bridge on the leased subnet as docker would, and one container on it, unless they are there."""
        if (Path("/run/netns") / self.container).exists():
            return
        namespaces.make(self.container)
        if "docker0" not in self.run("ip", "-br", "link", "show", "type", "bridge"):
            bridge = [_address_add(one, 1, "docker0") for one in self.subnets]
            namespaces.ip(self.namespace, "link add docker0 type bridge", *bridge)
        namespaces.ip(
            self.namespace,
            f"link add vethc type veth peer name eth0 netns {self.container}",
            "link set vethc master docker0 up",
            "link set docker0 up",
        )
        namespaces.ip(
            self.container,
            f"link set eth0 mtu {self.mtu_bytes} up",
            *(_address_add(one, 2, "eth0") for one in self.subnets),
            *(f"route add default via {one[1]}" for one in self.subnets),
        )

    def stop_container(self) -> None:
        """End the container as docker would: its bridge stays."""
        namespaces.ip(self.namespace, "link delete vethc")
        namespaces.remove(self.container)

    def run(self, *argv: str, input: str | None = None) -> str:  # noqa: A002
        """Run a command on this host; what it printed."""
        return process.run([*self.enter, *argv], input=input)

    def dump(self) -> str:
        """Links, routes, rules and the end of the log, for the report of a failed test."""
        logs = [self.log.read_text(errors="replace")] if self.log.exists() else []
        return dump(f"{self.name} {self.address}", self.run, logs)

    def remove(self) -> None:
        """End the daemon and remove the namespaces."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None
        with contextlib.suppress(FileNotFoundError):
            # The notes of other_networks.py and program_ids.py are below /run, where they would outlive this namespace.
            for note in hostlock.FOLDER.glob(f"{(Path('/run/netns') / self.namespace).stat().st_ino}-?.[jp]*"):
                note.unlink(missing_ok=True)
        for name in (self.container, self.namespace):
            namespaces.remove(name)

    def _is_ready(self) -> bool:
        if self._daemon is not None and self._daemon.poll() is not None:
            raise AssertionError(f"the daemon of {self.name} ended with {self._daemon.returncode}\n{self.dump()}")
        status = self.status()
        return status.get("state") == "ready" and status.get("pid") == self._pid()

    def _pid(self) -> int | None:
        # `ip netns exec` becomes the program, and so does the shell: same process.
        return self._daemon.pid if self._daemon else None

    def _variables(self) -> dict[str, str]:
        return dict(line.partition("=")[::2] for line in (self.run_dir / "subnet.env").read_text().splitlines())


class Lab:
    """The switch, etcd, and the hosts that were made on it."""

    def __init__(self, folder: Path, *, dual: bool = False, only6: bool = False, routed: bool = False) -> None:
        """Values only; see `laboratory`."""
        self.folder = folder
        self.dual = dual
        self.only6 = only6
        self.routed = routed
        self.switch = namespaces.unique(f"{next(_numbers)}sw")
        self.hosts: list[Host] = []
        self.own_sockets = False
        self._host_numbers = itertools.count(1)
        self.inside = ["ip", "netns", "exec", self.switch]
        self.etcd = Etcd(folder, hosts=[str(SWITCH_ADDRESS)], client_port=2379, inside=self.inside)
        self.etcd_flags: Mapping[str, object] = {"etcd-endpoints": ETCD}

    def make(self, backend: dict[str, Any], arrange: Callable[[Lab], None]) -> None:
        """Start the switch and etcd, and write the network config."""
        self.own_sockets = backend["Type"] == "wireguard"
        namespaces.make(self.switch)
        NEAR.make(self.switch)
        if self.routed:
            make_router(self.switch)
        arrange(self)
        self.configure(backend)

    def start_etcd(self) -> None:
        """Start etcd on the data that it had."""
        self.etcd.start()

    def stop_etcd(self) -> None:
        """End etcd; its data stays."""
        self.etcd.stop()

    def configure(self, backend: dict[str, Any], *words: str) -> None:
        """Write the network config with `overlayd config set`; `words` are further arguments of it."""
        pools: dict[str, object] = {"EnableIPv4": False} if self.only6 else {"Network": str(NETWORK)}
        if self.dual or self.only6:
            pools |= {"EnableIPv6": True, "IPv6Network": str(NETWORK6)}
        config = json.dumps({**pools, "Backend": backend})
        flags = [f"--{name}={value}" for name, value in {**self.etcd_flags, "config-file": os.devnull}.items()]
        self.run([sys.executable, "-m", "overlayd", "config", "set", *words, *flags, config])

    def run(self, argv: Sequence[str]) -> str:
        """Run a command in the switch's namespace; what it printed."""
        done = subprocess.run([*self.inside, *argv], capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def etcdctl(self, *words: str) -> str:
        """Run etcdctl as somebody else's tool would; what it printed."""
        return self.run(["env", "ETCDCTL_API=3", "etcdctl", *PATIENCE, f"--endpoints={ETCD}", *words])

    def host(
        self,
        name: str,
        *,
        lease_ttl_s: int = 86400,
        start: bool = True,
        settings: Mapping[str, object] | None = None,
        far: bool = False,
    ) -> Host:
        """Make a host (`far`: behind the router), and start its daemon, with these settings too, and its container."""
        host = Host(
            self.folder,
            name,
            # Never the same one twice: the kernel takes its time to remove a namespace and the devices in it.
            next(self._host_numbers),
            etcd_flags=self.etcd_flags,
            lease_ttl_s=lease_ttl_s,
            settings=settings,
            own_sockets=self.own_sockets,
            segment=FAR if far else NEAR,
        )
        for folder in (host.run_dir, host.state_dir, host.sockets):
            folder.mkdir(parents=True, exist_ok=True)
        # No daemon of the lab may start or restart the machine's docker.
        host.install("systemctl", "echo there is no systemd in this lab >&2; exit 1")
        self.hosts.append(host)
        self.plug_in(host)
        if start:
            host.start()
            host.start_container()
        return host

    def plug_in(self, host: Host) -> None:
        """Make a host's namespace and its cable to the switch."""
        namespaces.make(host.namespace)
        host.segment.plug_in(self.switch, host.port, host.namespace, host.number, routed=self.routed)

    def remove_host(self, host: Host) -> None:
        """Take a host off the switch for good, as if it lost power."""
        host.remove()
        self.hosts.remove(host)

    def remove(self) -> None:
        """End and remove everything."""
        for host in self.hosts:
            host.remove()
        self.stop_etcd()
        namespaces.remove(self.switch)


@contextmanager
def laboratory(
    folder: Path,
    backend: dict[str, Any],
    *,
    dual: bool = False,
    only6: bool = False,
    routed: bool = False,
    arrange: Callable[[Lab], None] = Lab.start_etcd,
) -> Iterator[Lab]:
    """A lab without hosts yet, for the length of the block; `arrange` starts etcd, by default a single server.

    `dual`: the network has IPv6 subnets too; `only6`: it has no others. `routed`: there is a second segment, and a
    router between the two.
    """
    missing = [name for name in ("ip", "etcd", "etcdctl", "iptables", "ping") if shutil.which(name) is None]
    assert not missing, f"the kernel tests need {', '.join(missing)}: run `make system`"
    namespaces.sweep()
    lab = Lab(folder, dual=dual, only6=only6, routed=routed)
    try:
        lab.make(backend, arrange)
        yield lab
    finally:
        lab.remove()


def _address_add(subnet: IPv4Network | IPv6Network, number: int, device: str) -> str:
    """The command of `ip` that gives a device the address with that number in a subnet."""
    return f"address add {subnet[number]}/{subnet.prefixlen} dev {device}" + (" nodad" if subnet.version == 6 else "")


def environment() -> dict[str, str]:
    """The environment for the daemon: its sources, and none of the settings that this shell may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OVERLAYD_", "FLANNELD_"))}
    return {**kept, "PYTHONPATH": str(SOURCES)}
