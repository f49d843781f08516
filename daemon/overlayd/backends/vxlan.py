"""VXLAN (RFC 7348) by the kernel, as flannel lays it out: no learning, no flooding; every peer is programmed.

For each peer: a permanent neighbour from its subnet's first address to its MAC, a forwarding entry from that MAC to its
public address, and a route to its subnet through that first address.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, ClassVar, Self

from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts, Carrier, Key
from overlayd.backends.host_gw import DIRECT_ROUTING, direct_route, reaches_directly
from overlayd.backends.listening import Listening
from overlayd.backends.options import FIRST_PORT, LAST_PORT, MTU, Options, largest_packet
from overlayd.backends.peers import Quoted, Reason
from overlayd.backends.planned import Planned
from overlayd.backends.wire import Wire, WireFormat
from overlayd.errors import NetworkConfigError
from overlayd.kernel.converge import Plan
from overlayd.kernel.state import Address, FdbEntry, KernelObject, Neighbour, Route, VxlanLink
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.lib import marks
from overlayd.lib.addresses import IPAddress, interface
from overlayd.lib.quick_dataclass import dataclass

# By the IP version of the underlay: outer IPv4 20 or IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14.
OVERHEAD_BYTES = {4: 50, 6: 70}
# linux/if.h: IFNAMSIZ less the zero byte. A VNI has up to eight digits, or six in hexadecimal.
LONGEST_NAME = 15
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)

FACTS = BackendFacts(
    name="vxlan",
    published_as="vxlan",
    summary="VXLAN by the kernel, in UDP. Crosses any IP network.",
    keys=(
        Key(
            name="VNI",
            help="The network's number in VXLAN; the devices are overlay.VNI and, for IPv6, overlay-v6.VNI, or "
            "overlay.xHEX and overlay-xHEX where that is too long a name.",
            default=1,
            lowest=1,
            highest=2**24 - 1,
        ),
        Key(name="Port", help="UDP port.", default=8472, lowest=FIRST_PORT, highest=LAST_PORT),
        Key(
            name="GBP",
            help="Group policy extension: a packet's mark goes along. All hosts must agree.",
            default=False,
        ),
        Key(
            name="Learning",
            help="Let the kernel learn peers' MACs from packets. Without, every peer is programmed.",
            default=False,
        ),
        DIRECT_ROUTING,
        MTU,
    ),
    ipv6=True,
    overhead_bytes=OVERHEAD_BYTES,
    carrier=Carrier(protocol="udp", port_key="Port"),
    device_kind="vxlan",
    host_answers=True,
    one_route=False,
    runs_commands=False,
    notified=True,
)


@dataclass(frozen=True, kw_only=True)
class Vxlan(Planned):
    """The backend on one host. `direct` is DirectRouting: peers on the underlay's own networks get plain routes."""

    facts: ClassVar[BackendFacts] = FACTS
    environment: Environment
    vni: int
    port: int
    gbp: bool
    learning: bool
    direct: bool
    mtu_bytes: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: those of FACTS."""
        options = Options(cls.facts, config)
        return cls._made(options, environment, direct=options.flag("DirectRouting"))

    @classmethod
    def _made(cls, options: Options, environment: Environment, *, direct: bool) -> Self:
        underlay_mtu_bytes = options.number("MTU") or environment.underlay.mtu_bytes
        if underlay_mtu_bytes > environment.underlay.mtu_bytes:
            raise NetworkConfigError(
                f"MTU of backend {cls.facts.name} is {underlay_mtu_bytes}, and that of this host's "
                f"{environment.underlay.ifname} is {environment.underlay.mtu_bytes}",
                hint="lower it in the network config, leave it out, or raise that of the interface",
            )
        overhead_bytes = max(OVERHEAD_BYTES[pool.network.version] for pool in environment.network.pools)
        return cls(
            environment=environment,
            vni=options.number("VNI"),
            port=options.port("Port"),
            gbp=options.flag("GBP"),
            learning=options.flag("Learning"),
            direct=direct,
            mtu_bytes=largest_packet(
                cls.facts, underlay_mtu_bytes, overhead_bytes, ipv6=environment.network.v6 is not None
            ),
        )

    def device(self, version: int) -> str:
        """The name of the VXLAN device for packets of one family, which travels over the same family."""
        name, short = (".", ".x") if version == 4 else ("-v6.", "-x")
        if marks.ours().number:
            # The digit in the name leaves one character less.
            short = short[-1] if version == 4 else short[0]
        whole = marks.ours().device(f"{name}{self.vni}")
        return whole if len(whole) <= LONGEST_NAME else marks.ours().device(f"{short}{self.vni:x}")

    @property
    def devices(self) -> tuple[str, ...]:
        """The VXLAN devices, and with DirectRouting the underlay's interface too."""
        made = tuple(self.device(pool.network.version) for pool in self.environment.network.pools)
        return (*made, self.environment.underlay.ifname) if self.direct else made

    @property
    def listens(self) -> tuple[Listening, ...]:
        """The UDP port, in each family of the network."""
        return tuple(
            Listening(version=pool.network.version, protocol="udp", port=self.port)
            for pool in self.environment.network.pools
        )

    def lease_data(self, version: int) -> Mapping[str, Any]:
        """The network identifier and this host's MAC, under flannel's names."""
        return {"VNI": self.vni, "VtepMAC": self.mac(version)}

    def plan(self, own: Lease, peers: Collection[Lease]) -> Plan:
        """All that the kernel should hold, for these leases. Pure."""
        selected = self.environment.select_peers(
            peers, own=own, backend_type=self.facts.published_as, usable=_Macs(self, own).refusal
        )
        reachable: dict[str, tuple[KernelObject, ...]] = {}
        paths: dict[str, str] = {}
        for peer in selected.served:
            family_leases = self.environment.shared_family_leases(peer)
            reachable[peer.key_name] = tuple(
                entry for family_lease in family_leases for entry in self._entries(family_lease)
            )
            paths[peer.key_name] = "direct" if all(map(self._is_direct, family_leases)) else "vxlan"
        base = (
            *self.environment.base(own),
            *(item for family_lease in own.family_leases for item in self._own_end(family_lease)),
        )
        return self.environment.plan(
            selected,
            base=base,
            peers=reachable,
            paths=paths,
        )

    def claims(self, peer: Lease) -> Iterable[Hashable]:
        """See Planned: its MACs, also where a direct route needs none."""
        return [(one.version, _mac_of(one)) for one in self.environment.shared_family_leases(peer)]

    def wire(self, version: int) -> Wire | None:
        """See Backend. A mark that goes along (GBP) is the kernel's device's to write."""
        if self.gbp:
            return None
        return Wire(
            format=WireFormat.VXLAN,
            device=self.device(version),
            port=self.port,
            vni=self.vni,
            mac=self.mac(version),
            paths={"vxlan": WireFormat.VXLAN, "direct": WireFormat.DIRECT},
        )

    def _own_end(self, family_lease: FamilyLease) -> tuple[KernelObject, ...]:
        device = self.device(family_lease.version)
        link = VxlanLink(
            name=device,
            mtu_bytes=self.mtu_bytes,
            vni=self.vni,
            port=self.port,
            local=self.environment.endpoint(family_lease.version).address,
            underlay=self.environment.underlay.ifname,
            mac=self.mac(family_lease.version),
            learning=self.learning,
            gbp=self.gbp,
        )
        # The host's own packets to the overlay have this source address. A /32 adds no route for the subnet.
        return (
            link,
            Address(
                link=device, address=interface(family_lease.subnet.network_address, family_lease.subnet.max_prefixlen)
            ),
        )

    def mac(self, version: int) -> str:
        """This host's MAC, in packets of one family."""
        return vtep_mac(self.environment.endpoint(version).public_ip, self.vni)

    def _is_direct(self, family_lease: FamilyLease) -> bool:
        return self.direct and reaches_directly(self.environment, family_lease)

    def _entries(self, family_lease: FamilyLease) -> tuple[KernelObject, ...]:
        if self._is_direct(family_lease):
            return (direct_route(self.environment, family_lease),)
        device, gateway = self.device(family_lease.version), family_lease.subnet.network_address
        mac = _mac_of(family_lease)
        return (
            Neighbour(link=device, address=gateway, mac=mac),
            FdbEntry(link=device, mac=mac, dst=family_lease.public_ip),
            Route(dst=family_lease.subnet, link=device, via=gateway, onlink=True),
        )


def _mac_of(family_lease: FamilyLease) -> str:
    return str(family_lease.fields()["vtepmac"]).lower()


class _Macs:
    """Which host has which MAC. Forwarding entries of two hosts with one MAC would replace each other for ever."""

    def __init__(self, backend: Vxlan, own: Lease) -> None:
        self._backend = backend
        self._holders = {
            (family_lease.version, backend.mac(family_lease.version)): family_lease.public_ip
            for family_lease in own.family_leases
        }

    def refusal(self, peer: Lease) -> Reason | None:
        """Why a peer's data cannot be used; None, and its MACs noted, if it can."""
        vni = self._backend.vni
        found: dict[tuple[int, str], IPAddress] = {}
        for family_lease in self._backend.environment.shared_family_leases(peer):
            data = family_lease.fields()
            if data.get("vni", vni) != vni:
                return "its VNI is {}, ours is {}", (Quoted(data["vni"]), vni)
            if not isinstance(data.get("vtepmac"), str) or not _MAC.fullmatch(data["vtepmac"]):
                return "it published no usable VtepMAC: {}", (Quoted(data.get("vtepmac")),)
            mac = data["vtepmac"].lower()
            if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
                return "its VtepMAC {} is not one of a host", (mac,)
            holder = self._holders.get((family_lease.version, mac), family_lease.public_ip)
            if holder != family_lease.public_ip:
                return "its VtepMAC {} is also that of {}", (mac, holder)
            found[family_lease.version, mac] = family_lease.public_ip
        self._holders |= found
        return None


def vtep_mac(public_ip: IPAddress, vni: int) -> str:
    """A MAC that a host has again after every reboot: a hash of what is unique to it in the network.

    Locally administered and unicast (IEEE 802: second-lowest bit of the first byte set, lowest clear).
    """
    digest = bytearray(hashlib.sha256(f"overlayd {public_ip} {vni}".encode()).digest()[:6])
    digest[0] = (digest[0] | 0x02) & 0xFE
    return ":".join(f"{byte:02x}" for byte in digest)


BACKEND = Vxlan
