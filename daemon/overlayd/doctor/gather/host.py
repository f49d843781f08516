"""The daemon, the kernel and its settings, as they are."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from shutil import which

from overlayd.doctor.facts import Daemon, Feature, Host, Link, Network, Underlay
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.kernel import features, interfaces, survey
from overlayd.kernel.namespaces import in_new_namespace
from overlayd.kernel.wireguard import userspace
from overlayd.lib import marks, process, systemctl
from overlayd.monitoring import status_file
from overlayd.monitoring.status_file import Status
from overlayd.settings import Settings

DEVICES = ("vxlan", "tun", "ipip", "wireguard")
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


def read_daemon(settings: Settings) -> tuple[Status | None, Daemon]:
    """What the daemon says of itself, None if none ever ran here; and how its process is."""
    running, status = _running(settings), None
    problems: tuple[str, ...] = ()
    try:
        status = status_file.read(settings.run_dir)
        found = (status.problem, *status.problems, status.etcd_problem)
        problems = tuple(problem for problem in found if problem)
    except OverlaydError as error:
        problems = (error.message,) if running else ()
    used, most = _files(status.pid) if status is not None and running else (None, None)
    return status, Daemon(
        running=running,
        state=status.state if status is not None else None,
        problems=problems,
        open_files=used,
        open_files_limit=most,
        unit=systemctl.show(f"{marks.ours().unit}.service", ("LoadState", "ActiveState", "UnitFileState")),
    )


def read_host(settings_problem: str | None, network: Network | None, underlay: Underlay) -> Host:
    """The kernel: settings, limits, interfaces, and what it can do."""
    devices = (underlay.ifname, *(network.devices if network else ()), network.bridge if network else "docker0")
    neighbours, overflows = _neighbours()
    return Host(
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
        "net/ipv4/neigh/default/gc_thresh3",
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


def _links() -> tuple[Link, ...]:
    addresses = {interface.name: interface.addresses for interface in interfaces.read_interfaces()}
    return tuple(
        Link(
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


def _features() -> dict[str, Feature]:
    found = {name: device_feature(name) for name in DEVICES}
    return {**found, "iptables": _rules()}


def device_feature(name: str) -> Feature:
    """Whether the kernel has devices of a kind, found out without changing anything."""
    # What a file tells needs no trying, and trying would load the module.
    state = features.module_state(name)
    if state is not None:
        return Feature(there=True, how=state)
    try:
        there = features.makes_device(name)
    except OSError as error:
        return Feature(there=None, how=f"cannot be tried ({error.strerror})")
    if not there and name == "wireguard" and which(userspace.PROGRAM):
        return Feature(there=True, how=f"by {userspace.PROGRAM}")
    return Feature(there=there, how="tried and made" if there else "not there")


def _rules() -> Feature:
    """Whether iptables and this kernel take rules of our kind, tried in a network namespace of its own."""
    said: list[str] = []

    def restore() -> bool:
        try:
            process.run(["iptables-restore"], input=_RULES, timeout_s=10)
        except CommandFailed as error:
            said.append(error.message.splitlines()[-1].strip())
            return False
        return True

    try:
        there = in_new_namespace(restore)
    except OSError as error:
        return Feature(there=None, how=f"cannot be tried ({error.strerror})")
    return Feature(there=there, how="tried and taken" if there else f"refused ({said[0]})")
