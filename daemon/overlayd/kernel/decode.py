"""Netlink's dumps as our values: links that have our alias, and what is on those links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from overlayd.kernel import links
from overlayd.kernel.links import (
    AF_BRIDGE,
    NDA_DST,
    NDA_LLADDR,
    NUD_PERMANENT,
    LinkMessage,
    address_of,
)
from overlayd.kernel.messages import FAMILY, number
from overlayd.kernel.state import (
    Address,
    FdbEntry,
    IpipLink,
    Link,
    Neighbour,
    TunLink,
    VxlanLink,
    WireguardLink,
    WireguardPeer,
)
from overlayd.kernel.wireguard import Devices
from overlayd.lib import marks

# linux/if_link.h, linux/if_tunnel.h
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT = 1, 3, 4, 7, 15
IFLA_VXLAN_LOCAL6, IFLA_VXLAN_UDP_CSUM, IFLA_VXLAN_GBP = 17, 18, 23
IFLA_VXLAN_UDP_ZERO_CSUM6_TX, IFLA_VXLAN_UDP_ZERO_CSUM6_RX = 19, 20
IFLA_IPTUN_LOCAL, IFLA_IPTUN_PROTO, IFLA_IPTUN_PMTUDISC = 2, 9, 10


def link(message: LinkMessage, names: Mapping[int, str], wireguard: Devices, peers: list[WireguardPeer]) -> Link | None:
    """The link, if it is ours. The peers of a WireGuard device are added to `peers`."""
    name, mtu_bytes, up, data = message.name, message.mtu_bytes, message.up, message.data
    # The alias cannot be given at creation. A link with one of our names and no alias that was never brought up is ours
    # too: the daemon was killed between the two.
    ours = marks.ours()
    if message.alias != ours.name and (message.alias or up or not ours.names(name)):
        return None
    if (device := wireguard.get(name, message.kind)) is not None:
        peers.extend(device.peers)
        return WireguardLink(
            name=name,
            mtu_bytes=mtu_bytes,
            up=up,
            private_key=device.private_key or "",
            listen_port=device.listen_port,
        )
    match message.kind:
        case "tun":
            return TunLink(name=name, mtu_bytes=mtu_bytes, up=up)
        case "ipip":
            return IpipLink(
                name=name, mtu_bytes=mtu_bytes, up=up, local=address_of(data.get(IFLA_IPTUN_LOCAL) or bytes(4))
            )
        case "vxlan":
            return VxlanLink(
                name=name,
                mtu_bytes=mtu_bytes,
                up=up,
                mac=message.mac or "",
                vni=number(data.get(IFLA_VXLAN_ID)),
                port=int.from_bytes(data.get(IFLA_VXLAN_PORT, b""), "big"),
                local=address_of(data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6) or bytes(4)),
                underlay=names.get(number(data.get(IFLA_VXLAN_LINK)), ""),
                learning=_flag(data, IFLA_VXLAN_LEARNING),
                gbp=IFLA_VXLAN_GBP in data,
                **_checksums(data),
            )
    return None


def _checksums(data: Mapping[int, bytes]) -> dict[str, bool]:
    """What a device with an IPv6 underlay does with checksums; nothing over IPv4, where there is no choice."""
    if IFLA_VXLAN_LOCAL6 not in data:
        return {}
    return {
        "sends_zero_csum6": _flag(data, IFLA_VXLAN_UDP_ZERO_CSUM6_TX),
        "takes_zero_csum6": _flag(data, IFLA_VXLAN_UDP_ZERO_CSUM6_RX),
    }


def _flag(data: Mapping[int, bytes], kind: int) -> bool:
    return any(data.get(kind, b""))


def addresses(ours: Mapping[int, str]) -> Iterator[Address]:
    """The addresses on our links, less those that the kernel gives by itself."""
    for message in links.read_addresses() if ours else ():
        address = message.address
        if message.index in ours and not (address.version == 6 and address.is_link_local):
            yield Address(link=ours[message.index], address=address)


def neighbours(ours: Mapping[int, str], version: int) -> Iterator[Neighbour]:
    """The permanent neighbours on our links."""
    for link, found in _neighbours(ours, FAMILY[version]):
        mac = found.get(NDA_LLADDR)
        if mac and NDA_DST in found:
            yield Neighbour(link=link, address=address_of(found[NDA_DST]), mac=mac.hex(":"))


def fdb(ours: Mapping[int, str]) -> Iterator[FdbEntry]:
    """The permanent forwarding entries of our links that lead somewhere."""
    for link, found in _neighbours(ours, AF_BRIDGE):
        # With Learning the kernel adds entries of its own, which age.
        if NDA_DST in found:
            yield FdbEntry(link=link, mac=found[NDA_LLADDR].hex(":"), dst=address_of(found[NDA_DST]))


def _neighbours(ours: Mapping[int, str], family: int) -> Iterator[tuple[str, dict[int, bytes]]]:
    for index, state, found in links.dump_neighbours(family, ours) if ours else ():
        if state & NUD_PERMANENT:
            yield ours[index], found
