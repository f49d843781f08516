"""The programs of one network on this host: loaded, attached to interfaces, and their maps kept as desired."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from overlayd.errors import KernelRefused, UnsupportedError
from overlayd.fastpath import records
from overlayd.fastpath.libbpf import Loaded, processors
from overlayd.fastpath.records import Port, Reason, Settings
from overlayd.kernel import attached
from overlayd.kernel.tc import Direction

_HERE = Path(__file__)
# In the frozen program it lies beside this module; in a checkout, where rpm/bpf.py leaves it.
OBJECT = (
    _HERE.with_name("fastpath.bpf.o")
    if getattr(sys, "frozen", False)
    else _HERE.parents[3] / "build/rpm/bpf/fastpath.bpf.o"
)


class Programs:
    """Loaded programs with their maps. They work from the first `write` of settings on, where they are attached."""

    def __init__(self) -> None:
        """Load them. Raises UnsupportedError where this kernel, or this host's libbpf, cannot."""
        try:
            data = OBJECT.read_bytes()
        except FileNotFoundError:
            raise UnsupportedError("the programs of the fast path were not built: invoke rpm.bpf") from None
        self._loaded = Loaded(data)
        self._maps = {
            name: self._loaded.map(name, sizes)
            for name, sizes in (
                ("settings", records.SETTINGS),
                ("peers", records.PEERS),
                ("containers", records.CONTAINERS),
                ("ports", records.PORTS),
                ("flows", records.FLOWS),
                ("routers", records.ROUTERS),
                ("counters", (4, records.COUNTER_BYTES * processors())),
            )
        }
        self._peers: dict[bytes, bytes] = {}
        self._ports: dict[bytes, bytes] = {}
        self._routers: dict[bytes, bytes] = {}
        # Whether they may be at work: those of a daemon before this one have maps of their own.
        self._runs = False
        self._containers: dict[bytes, bytes] = {}

    def close(self) -> None:
        """Let go of them; those that are attached stay in the kernel, and use their maps until the settings expire."""
        self._loaded.close()

    def write_settings(self, settings: Settings) -> None:
        """Say who this host is, and until when. Raises KernelRefused."""
        self._write("settings", {records.ZERO: settings.packed()}, {})
        self._runs = True

    def stop(self) -> None:
        """Leave every packet to the kernel from now on, until the next `write_settings`. Raises KernelRefused.

        All flows are forgotten: meanwhile conntrack may change new ones with the same ports.
        """
        if not self._runs:
            return
        self._write("settings", {records.ZERO: bytes(records.SETTINGS[1])}, {})
        self._runs = False
        self._forget_flows(lambda _address: True)

    def write_peers(self, peers: Mapping[bytes, bytes]) -> bool:
        """Make the peers exactly these, by Peer.key and Peer.packed; whether any was not. Raises KernelRefused."""
        before, self._peers = self._peers, dict(peers)
        self._write("peers", peers, before)
        return before != peers

    def write_routers(self, macs: Iterable[str]) -> bool:
        """Make the underlay's routers exactly these; whether any was not. Raises KernelRefused."""
        desired = {records.router(mac): records.number(1) for mac in macs}
        before, self._routers = self._routers, desired
        self._write("routers", desired, before)
        return before != desired

    def write_ports(self, ports: Iterable[Port]) -> bool:
        """Make the containers exactly these; whether any was not. Raises KernelRefused."""
        found = tuple(ports)
        containers = {port.address.packed: records.number(port.index) for port in found}
        described = {records.number(port.index): port.packed() for port in found}
        gone = {key: value for key, value in self._containers.items() if containers.get(key) != value}
        before, self._ports = self._ports, described
        self._write("ports", described, before)
        # An address is looked up first: so it comes last, and goes first. The kernel has removed it with the interface.
        self._write("containers", containers, self._containers)
        self._containers = containers
        if gone:
            # Another container may have the address, and published ports.
            self._forget_flows(gone.__contains__)
        return before != described or bool(gone)

    def attach(self, index: int, direction: Direction, name: str) -> None:
        """Put a program at an interface, in place of one of ours there. Raises KernelRefused, OverlaydError."""
        attached.attach(index, direction, name, self._loaded.program(name))

    def counters(self) -> Mapping[Reason, int]:
        """How many packets, by reason."""
        found = {}
        for reason in Reason:
            value = self._maps["counters"].read(records.number(reason))
            found[reason] = records.total(value) if value is not None else 0
        return found

    def _forget_flows(self, of: Callable[[bytes], bool]) -> None:
        """Forget the flows whose first address this is true of."""
        for flow in list(self._maps["flows"].keys()):
            if of(flow[:4]):
                self._maps["flows"].delete(flow)

    def _write(self, name: str, desired: Mapping[bytes, bytes], before: Mapping[bytes, bytes]) -> None:
        table = self._maps[name]
        try:
            for key in before.keys() - desired.keys():
                table.delete(key)
            for key, value in desired.items():
                if before.get(key) != value:
                    # The interface may have gone since it was read.
                    with contextlib.suppress(*([OSError] if name == "containers" else [])):
                        table.write(key, value)
        except OSError as error:
            raise KernelRefused("map update", name, error.errno or 5) from error
