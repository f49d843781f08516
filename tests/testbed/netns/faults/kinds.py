"""The faults that a lab can have."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from overlayd.errors import CommandFailed
from overlayd.lib import process
from tests.testbed.netns.families import CONFIG
from tests.testbed.netns.faults import power
from tests.testbed.netns.faults.echoes import Echoes
from tests.testbed.netns.faults.fault import LabFault
from tests.testbed.netns.lab import Host, Lab
from tests.testbed.polling import eventually

_SMALL = "size=256k,mode=755"


@contextmanager
def with_small_disks(host: Host) -> Iterator[None]:
    """Give a host a /run and a /var of its own that are soon full, for the length of the block."""
    with ExitStack() as stack:
        for folder in (host.run_dir, host.state_dir):
            process.run(["mount", "-t", "tmpfs", "-o", _SMALL, "none", str(folder)])
            stack.callback(process.run, ["umount", "--lazy", str(folder)])
        yield


def fill(folder: Path) -> None:
    """Write until nothing more goes onto this disk."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def make_room(folder: Path) -> None:
    """Take away what `fill` wrote."""
    (folder / "filler").unlink(missing_ok=True)


def of_daemon(host: Host) -> Iterator[LabFault]:
    """The daemon ends or stands still. No packet is lost by that: the data path is the kernel's."""
    takes = frozenset({f"daemon {host.name}"})
    start = partial(host.start, ready=False)
    yield LabFault(
        name=f"daemon of {host.name} killed", start=partial(host.stop, signal.SIGKILL), stop=start, takes=takes
    )
    yield LabFault(name=f"daemon of {host.name} stopped", start=host.stop, stop=start, takes=takes)
    yield LabFault(
        name=f"daemon of {host.name} frozen",
        start=partial(_signal, host, signal.SIGSTOP),
        stop=partial(_signal, host, signal.SIGCONT),
        takes=takes,
    )


def of_disk(host: Host) -> LabFault:
    """No room under /run and /var; the host is one of `with_small_disks`."""

    def start() -> None:
        for folder in (host.run_dir, host.state_dir):
            fill(folder)

    def stop() -> None:
        for folder in (host.run_dir, host.state_dir):
            make_room(folder)

    # A daemon that starts now cannot write the files that make it ready.
    takes = frozenset({f"daemon {host.name}"})
    return LabFault(name=f"disks of {host.name} full", start=start, stop=stop, takes=takes)


def of_clock(host: Host, move: Callable[[str], None], offset: str) -> LabFault:
    """The clock jumps, and later back again; `move` is `with_movable_clock`'s."""
    return LabFault(
        name=f"clock of {host.name} at {offset}",
        start=partial(move, offset),
        stop=partial(move, "+0"),
        takes=frozenset({f"clock {host.name}"}),
    )


def of_cable(lab: Lab, host: Host) -> LabFault:
    """The cable of a host is pulled, and put back."""

    def set_port(state: str) -> None:
        lab.run(["ip", "link", "set", host.port, state])

    return LabFault(
        name=f"cable of {host.name} pulled",
        start=partial(set_port, "down"),
        stop=partial(set_port, "up"),
        hosts=frozenset({host.name}),
        takes=frozenset({f"cable {host.name}", f"power {host.name}"}),
    )


def of_partition(lab: Lab, hosts: Sequence[Host]) -> LabFault:
    """Hosts on one segment are cut from each other, and from nobody else: ports that are isolated (bridge(8))."""

    def isolate(state: str) -> None:
        for host in hosts:
            lab.run(["bridge", "link", "set", "dev", host.port, "isolated", state])

    names = frozenset(host.name for host in hosts)
    return LabFault(
        name=f"{' and '.join(sorted(names))} cut from each other",
        start=partial(isolate, "on"),
        stop=partial(isolate, "off"),
        cut=names,
        # Isolated ports of two such faults would be cut from each other too.
        takes=frozenset({"isolation", *(f"power {name}" for name in names)}),
    )


def of_damage(host: Host) -> Iterator[LabFault]:
    """Somebody removes what is ours from a host's kernel; the daemon repairs it."""
    takes = frozenset({f"daemon {host.name}", f"power {host.name}"})

    def flush_routes() -> None:
        for family in ("-4", "-6"):
            host.run("ip", family, "route", "flush", "proto", "157")

    def delete_devices() -> None:
        for name in ("overlay.1", "overlay-v6.1"):
            with contextlib.suppress(CommandFailed):
                host.run("ip", "link", "delete", name)

    def flush_rules() -> None:
        for table in ("filter", "mangle", "nat", "raw"):
            text = host.run("iptables-save", "-t", table)
            for chain in {line.split()[0][1:] for line in text.splitlines() if line.startswith(":OVERLAYD")}:
                host.run("iptables", "-w", "-t", table, "-F", chain)

    for name, start in (("routes", flush_routes), ("devices", delete_devices), ("rules", flush_rules)):
        yield LabFault(
            name=f"overlay {name} of {host.name} removed",
            start=start,
            hosts=frozenset({host.name}),
            takes=takes,
            # A daemon that was started while etcd was away repairs nothing before it has its lease.
            healed=partial(power.is_ready, host),
        )


def of_power(lab: Lab, host: Host, echoes: Echoes) -> LabFault:
    """The host loses power, and returns."""

    def start() -> None:
        echoes.drop(host)
        power.off(host)

    parts = ("power", "daemon", "cable", "store")
    return LabFault(
        name=power.name(host),
        start=start,
        stop=partial(power.on, lab, host),
        hosts=frozenset({host.name}),
        takes=frozenset(f"{part} {host.name}" for part in parts),
        healed=partial(power.docker_starts, host, echoes),
    )


def of_newcomer(lab: Lab) -> LabFault:
    """A host joins that was never there, and dies."""
    joined: list[Host] = []

    def start() -> None:
        host = lab.host("new", lease_ttl_s=5, start=False)
        host.start(ready=False)
        joined.append(host)

    def stop() -> None:
        lab.remove_host(joined.pop())

    return LabFault(
        name="a host joins and dies", start=start, stop=stop, takes=frozenset({"newcomer"}), lasts_s=(5, 15)
    )


def of_store_connection(lab: Lab, host: Host) -> LabFault:
    """A host does not reach etcd."""
    words = ["INPUT", "-s", str(host.address), "-p", "tcp", "--dport", "2379", "-j", "DROP"]
    return LabFault(
        name=f"{host.name} cut from etcd",
        start=partial(lab.run, ["iptables", "-w", "-I", *words]),
        stop=partial(lab.run, ["iptables", "-w", "-D", *words]),
        takes=frozenset({f"store {host.name}"}),
    )


def of_etcd(lab: Lab, hosts: Sequence[Host], config: str) -> Iterator[LabFault]:
    """etcd's members die, stand still, lose what they know, or are set back. No packet is lost by that."""
    etcd, takes = lab.etcd, frozenset({"etcd"})
    # A lease that is lost with the data is written again by its host's daemon, within a minute.
    all_daemons = takes | {f"{part} {host.name}" for host in hosts for part in ("daemon", "store", "power", "cable")}
    backup = lab.folder / "backup"

    def restart_empty() -> None:
        etcd.stop()
        etcd.lose_data()
        etcd.start()
        etcd.ctl("put", CONFIG, config)

    def restore() -> None:
        etcd.stop()
        etcd.restore(backup)
        etcd.start()

    yield LabFault(name="etcd killed", start=etcd.stop, stop=etcd.start, takes=takes)
    yield LabFault(name="etcd frozen", start=etcd.freeze, stop=etcd.thaw, takes=takes)
    yield LabFault(name="etcd emptied", start=restart_empty, takes=all_daemons, settled=True, lasts_s=(10, 20))
    yield LabFault(
        name="etcd set back to a backup",
        start=partial(etcd.save, backup),
        stop=restore,
        takes=all_daemons,
        settled=True,
        lasts_s=(3, 10),
    )
    if len(etcd.members) > 1:
        yield LabFault(name="a member of etcd lost", start=etcd.members[0].kill, stop=etcd.start, takes=takes)
        yield LabFault(name="etcd compacted", start=etcd.compact, takes=takes)


def _signal(host: Host, number: signal.Signals) -> None:
    # One that has just been started has not written its status yet.
    if number == signal.SIGSTOP:
        eventually(f"the daemon of {host.name} runs", host.runs)
    os.kill(host.status()["pid"], number)
