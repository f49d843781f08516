"""Hosts, networks and peers drawn at random, and what the real backends want in the kernel for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from overlayd import backends
from overlayd.backends.environment import Environment
from overlayd.backends.vxlan import vtep_mac
from overlayd.kernel.converge import Plan
from overlayd.kernel.state import KernelState
from overlayd.kernel.wireguard.device import format_key
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import parse_network_config
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.underlay.choose import Underlay, UnderlayEndpoint
from tests.unit.kernel.model import Interface

V4, V6 = '"Network": "10.5.0.0/16"', '"EnableIPv6": true, "IPv6Network": "fd42::/48"'
NETWORKS = {
    (4,): parse_network_config(f"{{{V4}}}"),
    (4, 6): parse_network_config(f"{{{V4}, {V6}}}"),
    (6,): parse_network_config(f'{{"EnableIPv4": false, {V6}}}'),
}
ON_LINK: dict[int, IPNetwork] = {4: IPv4Network("198.18.1.0/24"), 6: IPv6Network("2001:db8:1::/64")}
UNDERLAY = Interface(
    name="eth0",
    mtu_bytes=1500,
    addresses=(IPv4Interface("198.18.1.1/24"), IPv6Interface("2001:db8:1::1/64")),
)
# Those whose whole work in the kernel is what `diff` orders, and what each publishes where that is not nothing.
KINDS = ("vxlan", "auto", "host-gw", "ipip", "udp", "wireguard")
# Where the wireguard backend keeps this host's key. Removed when Python ends.
_STATE = TemporaryDirectory(prefix="overlayd-scenes-")
IPV4_ONLY = ("ipip", "udp")
PEER_NUMBERS = range(2, 8)


def far_or_near(number: int, version: int, *, near: bool) -> IPAddress:
    """A host's underlay address: on the underlay's own network, or behind a router."""
    if version == 4:
        return IPv4Address(f"198.18.1.{number}" if near else f"198.19.7.{number}")
    return IPv6Address(f"2001:db8:1::{number:x}" if near else f"2001:db8:7::{number:x}")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One other host. `salt` makes another MAC of it, as a reinstalled host may have."""

    number: int
    near: bool = True
    salt: int = 0
    versions: tuple[int, ...] = (4, 6)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One host under one network config, and its peers."""

    kind: str = "vxlan"
    versions: tuple[int, ...] = (4,)
    own: int = 1
    mtu_bytes: int = 1500
    blackhole: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    peers: Mapping[int, Peer] = field(default_factory=dict)

    def environment(self, run_dir: Path = Path("/nonexistent")) -> Environment:
        """The network and the underlay."""
        endpoints = {
            version: UnderlayEndpoint(
                address=far_or_near(1, version, near=True),
                public_ip=far_or_near(1, version, near=True),
                on_link=(ON_LINK[version],),
            )
            for version in self.versions
        }
        underlay = Underlay(
            ifname=UNDERLAY.name,
            ifindex=2,
            mtu_bytes=self.mtu_bytes,
            reason="iface eth0",
            v4=endpoints.get(4),
            v6=endpoints.get(6),
        )
        network = NETWORKS[self.versions]
        return Environment(
            network=network,
            underlay=underlay,
            blackhole=self.blackhole,
            run_dir=run_dir,
            state_dir=Path(_STATE.name),
        )

    def plan(self) -> Plan:
        """What the backend wants in the kernel."""
        backend: Any = self.backend()
        found: Plan = backend.plan(self.own_lease(), self.peer_leases())
        return found

    def backend(self, run_dir: Path = Path("/nonexistent")) -> backends.Backend:
        """The backend itself, not opened."""
        return backends.load(self.kind).from_config(self.options, self.environment(run_dir))

    def own_lease(self) -> Lease:
        """This host's lease."""
        return self._lease(self.own, Peer(number=1, versions=self.versions))

    def peer_leases(self) -> list[Lease]:
        """The others' leases."""
        return [self._lease(peer.number, peer) for peer in self.peers.values()]

    def state(self) -> KernelState:
        """The same as one state."""
        return self.plan().state()

    def _lease(self, subnet_number: int, host: Peer) -> Lease:
        family_leases = {version: self._family_lease(version, subnet_number, host) for version in host.versions}
        return Lease(v4=family_leases.get(4), v6=family_leases.get(6), backend_type=backends.published_type(self.kind))

    def _family_lease(self, version: int, subnet_number: int, host: Peer) -> FamilyLease:
        address = far_or_near(host.number, version, near=host.near)
        vni = int(self.options.get("VNI", 1))
        data: dict[str, dict[str, Any]] = {
            "vxlan": {"VNI": vni, "VtepMAC": vtep_mac(address, vni + host.salt)},
            "wireguard": {"PublicKey": format_key(bytes([host.number, host.salt] * 16))},
        }
        subnet: IPNetwork = (
            IPv4Network(f"10.5.{subnet_number}.0/24")
            if version == 4
            else IPv6Network(f"fd42:0:0:{subnet_number:x}::/64")
        )
        return FamilyLease(
            subnet=subnet,
            public_ip=address,
            data=data.get(backends.published_type(self.kind)),
        )


def peers() -> st.SearchStrategy[dict[int, Peer]]:
    """Some of a few hosts, each by number."""
    one = st.builds(
        Peer,
        number=st.just(0),
        near=st.booleans(),
        salt=st.sampled_from([0, 0, 0, 1]),
        versions=st.sampled_from([(4, 6), (4, 6), (4,), (6,)]),
    )
    return st.dictionaries(st.sampled_from(PEER_NUMBERS), one, max_size=4).map(
        lambda found: {number: replace(peer, number=number) for number, peer in found.items()}
    )


def scenes(kinds: Sequence[str] = KINDS) -> st.SearchStrategy[Scene]:
    """Any host: a few values of everything that may differ, so that two scenes often have much in common."""
    return st.sampled_from(kinds).flatmap(_of_kind)


def _of_kind(kind: str) -> st.SearchStrategy[Scene]:
    options: dict[str, st.SearchStrategy[Any]] = {}
    if kind in ("vxlan", "auto"):
        options = {
            "VNI": st.sampled_from([1, 1, 7, 2**24 - 1]),
            "Port": st.sampled_from([8472, 8472, 4789]),
            "Learning": st.booleans(),
            "GBP": st.booleans(),
            "MTU": st.sampled_from([0, 1400]),
        }
    if kind in ("vxlan", "ipip"):
        options["DirectRouting"] = st.booleans()
    if kind == "wireguard":
        options = {
            "Mode": st.sampled_from(["separate", "auto"]),
            "PersistentKeepaliveInterval": st.sampled_from([0, 25]),
            # Also swapped.
            "ListenPort": st.sampled_from([51820, 51821]),
        }
    return st.builds(
        Scene,
        kind=st.just(kind),
        versions=st.just((4,)) if kind in IPV4_ONLY else st.sampled_from([(4,), (4, 6), (6,)]),
        own=st.sampled_from([1, 1, 9]),
        mtu_bytes=st.sampled_from([1500, 1480]),
        blackhole=st.booleans(),
        options=st.fixed_dictionaries({}, optional=options).map(_with_other_port),
        peers=peers(),
    )


def _with_other_port(options: dict[str, Any]) -> dict[str, Any]:
    """WireGuard's two devices need two ports."""
    return {**options, "ListenPortV6": 51820} if options.get("ListenPort") == 51821 else options
