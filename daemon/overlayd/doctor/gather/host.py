"""Facts of the daemon, the kernel and its settings."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from shutil import which

from overlayd import backends
from overlayd.doctor.facts import DaemonFacts, HostFacts, KernelFeature, LinkFacts, NetworkFacts, UnderlayFacts
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.kernel import attached, container_ports, features, interfaces, modules, survey
from overlayd.kernel.namespaces import in_new_namespace
from overlayd.kernel.wireguard import userspace
from overlayd.lib import marks, process, systemctl
from overlayd.lib.addresses import ip_network
from overlayd.monitoring import status_file
from overlayd.monitoring.status_file import Status
from overlayd.settings import Settings

_PROC = Path("/proc")
# One rule in each table that overlayd writes to, with the match that all its rules carry.
_RULES = """\
*raw
-A PREROUTING -m comment --comment overlayd -j ACCEPT
COMMIT
*nat
-A POSTROUTING -m comment --comment overlayd -j MASQUERADE
COMMIT
*filter
-A FORWARD -m comment --comment overlayd -j ACCEPT
COMMIT
"""


def read_daemon(settings: Settings) -> tuple[Status | None, DaemonFacts]:
    """The daemon's status, None if none ever ran here; and the facts of its process."""
    running, status = _running(settings), None
    problems: tuple[str, ...] = ()
    try:
        status = status_file.read(settings.run_dir)
        found = (status.problem, *status.problems, status.etcd_problem)
        problems = tuple(problem for problem in found if problem)
    except OverlaydError as error:
        problems = (error.message,) if running else ()
    used, most = _files(status.pid) if status is not None and running else (None, None)
    return status, DaemonFacts(
        running=running,
        state=status.state if status is not None else None,
        problems=problems,
        open_files=used,
        open_files_limit=most,
        unit=systemctl.show(f"{marks.ours().unit}.service", ("LoadState", "ActiveState", "UnitFileState")),
        fast_path=status.fast_path if status is not None and running else None,
        forwarder=status.forwarder if status is not None and running else None,
        without_program=tuple(_without_program(status)) if status is not None and running else (),
    )


def _without_program(status: Status) -> Iterator[str]:
    """The interfaces that the fast path needs, and at which the kernel has no program of it: underlay and containers'.

    Empty where the fast path is off, or this is not root.
    """
    if status.fast_path != "on" or status.subnet is None or os.geteuid() != 0:
        return
    names = [status.ifname or ""]
    for bridge in interfaces.with_address_in((ip_network(status.subnet),)):
        found = container_ports.read(bridge)
        names += [port.name for port in found.fast(IPv4Network(status.subnet))] if found else []
    for name in names:
        try:
            there = any(one.ours for one in attached.read(socket.if_nametoindex(name)))
        except OSError:
            # A container that has just ended.
            continue
        if not there:
            yield name


def read_host(settings_problem: str | None, network: NetworkFacts | None, underlay: UnderlayFacts) -> HostFacts:
    """The kernel: settings, limits, interfaces, and what it can do."""
    devices = (underlay.ifname, *(network.devices if network else ()), network.bridge if network else "docker0")
    neighbours, overflows = _neighbours()
    return HostFacts(
        root=os.geteuid() == 0,
        now=datetime.now(UTC),
        settings_problem=settings_problem,
        sysctls=_sysctls([name for name in devices if name]),
        features=_features(),
        neighbours=neighbours,
        neighbour_overflows=overflows,
        links=_links(),
    )


def _running(settings: Settings) -> bool | None:
    try:
        (settings.run_dir / status_file.FILE).stat()
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return status_file.runs(settings.run_dir)


def _files(pid: int) -> tuple[int | None, int | None]:
    try:
        limits = (_PROC / str(pid) / "limits").read_text()
        used = len(list((_PROC / str(pid) / "fd").iterdir()))
        line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
        return used, int(line.split()[3])
    except (OSError, StopIteration, ValueError):
        return None, None


def _sysctls(devices: list[str]) -> dict[str, str]:
    names = [
        *("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter"),
        *("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"),
        *("net/ipv4/neigh/default/gc_thresh3", "kernel/modules_disabled"),
        *("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"),
        *(f"net/ipv4/conf/{device}/{name}" for device in devices for name in ("rp_filter", "forwarding")),
        *(f"net/ipv6/conf/{device}/disable_ipv6" for device in ("all", *devices)),
    ]
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            found[name] = (_PROC / "sys" / name).read_text().strip()
    return found


def _neighbours() -> tuple[int | None, int | None]:
    """Entries in the ARP table, and how often it was full: hexadecimal columns, a line for each CPU."""
    try:
        heading, *lines = (_PROC / "net/stat/arp_cache").read_text().splitlines()
        rows = [dict(zip(heading.split(), (int(word, 16) for word in line.split()), strict=False)) for line in lines]
        return rows[0]["entries"], sum(row.get("table_fulls", 0) for row in rows)
    except (OSError, ValueError, IndexError, KeyError):
        return None, None


def _links() -> tuple[LinkFacts, ...]:
    addresses = {interface.name: interface.addresses for interface in interfaces.read_interfaces()}
    return tuple(
        LinkFacts(
            name=link.name,
            mtu_bytes=link.mtu_bytes,
            up=link.up,
            mac=link.mac,
            kind=link.kind,
            master=link.master,
            addresses=addresses.get(link.name, ()),
        )
        for link in survey.links()
    )


def _features() -> dict[str, KernelFeature]:
    found = {name: device_feature(name) for name in backends.device_kinds()}
    return {**found, "iptables": _rules()}


def device_feature(name: str) -> KernelFeature:
    """Whether the kernel has devices of a kind, found out without changing anything."""
    # Trying would load the module, which is not needed where a file names it.
    state = features.module_state(name)
    if state == features.WHEN_NEEDED and modules.loading_is_off():
        return KernelFeature(there=False, how="a module that is not loaded")
    if state is not None:
        return KernelFeature(there=True, how=state)
    try:
        there = features.makes_device(name)
    except OSError as error:
        return KernelFeature(there=None, how=f"cannot be tried ({error.strerror})")
    if not there and name == "wireguard" and which(userspace.PROGRAM):
        return KernelFeature(there=True, how=f"by {userspace.PROGRAM}")
    return KernelFeature(there=there, how="tried and made" if there else "not there")


def _rules() -> KernelFeature:
    """Whether iptables and this kernel take rules of our kind, tried in a network namespace of its own."""
    messages: list[str] = []

    def restore() -> bool:
        try:
            process.run(["iptables-restore"], input=_RULES, timeout_s=10)
        except CommandFailed as error:
            messages.append(error.message.splitlines()[-1].strip())
            return False
        return True

    try:
        there = in_new_namespace(restore)
    except OSError as error:
        return KernelFeature(there=None, how=f"cannot be tried ({error.strerror})")
    return KernelFeature(there=there, how="tried and taken" if there else f"refused ({messages[0]})")
