"""VXLAN (RFC 7348) by the kernel, as flannel lays it out: no learning, no flooding; every peer is programmed.

For each peer: a permanent neighbour from its subnet's first address to its MAC, a forwarding entry from that MAC to its
public address, and a route to its subnet through that first address.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, ClassVar, Self

from overlayd.backends.options import Options, largest_packet
from overlayd.backends.peers import refusals
from overlayd.kernel.converge import Plan, Report, converge, require
from overlayd.kernel.state import Address, FdbEntry, Neighbour, Route, Thing, VxlanLink
from overlayd.lease import Lease
from overlayd.underlay import Underlay

OVERHEAD_BYTES = 50  # outer Ethernet 14, IPv4 20, UDP 8, VXLAN 8
DEFAULT_VNI, DEFAULT_PORT = 1, 8472
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Vxlan:
    """The backend on one host. `direct` is DirectRouting: peers on the underlay's own networks get plain routes."""

    type: ClassVar[str] = "vxlan"
    network: IPv4Network
    underlay: Underlay
    vni: int
    port: int
    gbp: bool
    learning: bool
    direct: bool
    mtu_bytes: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, network: IPv4Network, underlay: Underlay) -> Self:
        """See Backend. Keys: VNI, Port, GBP, Learning, DirectRouting, MTU (of the underlay)."""
        options = Options(cls.type, config, ("VNI", "Port", "GBP", "Learning", "DirectRouting", "MTU"))
        underlay_mtu_bytes = options.number("MTU", underlay.mtu_bytes, low=0, high=65535) or underlay.mtu_bytes
        return cls(
            network=network,
            underlay=underlay,
            vni=options.number("VNI", DEFAULT_VNI, low=1, high=2**24 - 1),
            port=options.number("Port", DEFAULT_PORT, low=0, high=65535) or DEFAULT_PORT,
            gbp=options.flag("GBP"),
            learning=options.flag("Learning"),
            direct=options.flag("DirectRouting"),
            mtu_bytes=largest_packet(cls.type, underlay_mtu_bytes, OVERHEAD_BYTES),
        )

    @property
    def device(self) -> str:
        """The name of the VXLAN device."""
        return f"overlay.{self.vni}"

    @property
    def devices(self) -> tuple[str, ...]:
        """The VXLAN device, and with DirectRouting the underlay's interface too."""
        return (self.device, self.underlay.ifname) if self.direct else (self.device,)

    def lease_data(self) -> Mapping[str, Any]:
        """The network identifier and this host's MAC, under flannel's names."""
        return {"VNI": self.vni, "VtepMAC": vtep_mac(self.underlay.public_ip, self.vni)}

    def open(self, own: Lease) -> None:
        """See Backend."""
        require(self.plan(own, ()))

    def apply(self, own: Lease, peers: Collection[Lease]) -> Report:
        """See Backend."""
        return converge(self.plan(own, peers))

    def run(self, stop: threading.Event) -> None:
        """The kernel carries the packets."""

    def close(self) -> None:
        """Nothing is held here."""

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        link = VxlanLink(
            name=self.device,
            mtu_bytes=self.mtu_bytes,
            vni=self.vni,
            port=self.port,
            local=self.underlay.address,
            underlay=self.underlay.ifname,
            mac=vtep_mac(self.underlay.public_ip, self.vni),
            learning=self.learning,
            gbp=self.gbp,
        )
        # A host's own packets to the overlay leave with this address, and no subnet route comes with a /32.
        address = Address(link=self.device, address=IPv4Interface((own.subnet.network_address, 32)))
        reachable: dict[IPv4Network, tuple[Thing, ...]] = {}
        problems = refusals(peers, own=own, network=self.network, backend_type=self.type)
        holders = {link.mac: self.underlay.public_ip}
        for peer in peers:
            problem = problems.get(peer.subnet) or self._unusable(peer, holders)
            if problem is None:
                reachable[peer.subnet] = self._entries(peer)
            else:
                problems[peer.subnet] = problem
        return Plan(base=(link, address), peers=reachable, problems=problems)

    def _unusable(self, peer: Lease, holders: dict[str, IPv4Address]) -> str | None:
        """Why a peer's data cannot be used; None, and its MAC noted among `holders`, if it can."""
        data = _fields(peer)
        if data.get("vni", self.vni) != self.vni:
            return f"its VNI is {data['vni']!r}, ours is {self.vni}"
        if not isinstance(data.get("vtepmac"), str) or not _MAC.fullmatch(data["vtepmac"]):
            return f"it published no usable VtepMAC: {data.get('vtepmac')!r}"
        mac = data["vtepmac"].lower()
        if int(mac[:2], 16) & 1:
            return f"its VtepMAC {mac} is a multicast address"
        # Two entries for one MAC would replace each other for ever.
        if holders.setdefault(mac, peer.public_ip) != peer.public_ip:
            return f"its VtepMAC {mac} is also that of {holders[mac]}"
        return None

    def _entries(self, peer: Lease) -> tuple[Thing, ...]:
        if self.direct and self.underlay.reaches_directly(peer.public_ip):
            return (Route(dst=peer.subnet, link=self.underlay.ifname, via=peer.public_ip),)
        mac, gateway = str(_fields(peer)["vtepmac"]).lower(), peer.subnet.network_address
        return (
            Neighbour(link=self.device, address=gateway, mac=mac),
            FdbEntry(link=self.device, mac=mac, dst=peer.public_ip),
            Route(dst=peer.subnet, link=self.device, via=gateway, onlink=True),
        )


def _fields(peer: Lease) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in (peer.backend_data or {}).items()}


def vtep_mac(public_ip: IPv4Address, vni: int) -> str:
    """A MAC that a host has again after every reboot: a hash of what is unique to it in the network.

    Locally administered and unicast (IEEE 802: second-lowest bit of the first byte set, lowest clear).
    """
    digest = bytearray(hashlib.sha256(f"overlayd {public_ip} {vni}".encode()).digest()[:6])
    digest[0] = (digest[0] | 0x02) & 0xFE
    return ":".join(f"{byte:02x}" for byte in digest)


BACKEND = Vxlan
