"""Netlink's dumps as our values: links that have our alias, and what is on those links."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from overlayd.kernel.dump import attributes, dump
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
from overlayd.lib.addresses import IPAddress, ip_address, ip_interface

AF_INET, AF_BRIDGE, AF_INET6 = 2, 7, 10
NUD_PERMANENT = 0x80
IFF_UP = 1
RTM_GETNEIGH = 30
NDA_DST, NDA_LLADDR = 1, 2
_NEIGHBOUR = struct.Struct("=B3xiHBB")  # ndmsg: family, interface, state, flags, type


def link(message: Any, names: dict[int, str], wireguard: Devices, peers: list[WireguardPeer]) -> Link | None:
    """The link, if it is ours. The peers of a WireGuard device are added to `peers`."""
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    name, mtu_bytes, up = message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_MTU"), bool(message["flags"] & IFF_UP)
    alias = message.get_attr("IFLA_IFALIAS")
    # The alias cannot be given at creation. A link with one of our names and no alias that was never brought up is ours
    # too: the daemon was killed between the two.
    ours = marks.ours()
    if alias != ours.name and (alias or up or not ours.names(name)):
        return None
    if (device := wireguard.get(name, kind)) is not None:
        peers.extend(device.peers)
        return WireguardLink(
            name=name,
            mtu_bytes=mtu_bytes,
            up=up,
            private_key=device.private_key or "",
            listen_port=device.listen_port,
        )
    if kind == "tun":
        return TunLink(name=name, mtu_bytes=mtu_bytes, up=up)
    if kind not in ("vxlan", "ipip"):
        return None
    data = info.get_attr("IFLA_INFO_DATA")
    if kind == "ipip":
        local = ip_address(data.get_attr("IFLA_IPIP_LOCAL") or "0.0.0.0")
        return IpipLink(name=name, mtu_bytes=mtu_bytes, up=up, local=local)
    return VxlanLink(
        name=name,
        mtu_bytes=mtu_bytes,
        up=up,
        mac=message.get_attr("IFLA_ADDRESS"),
        vni=data.get_attr("IFLA_VXLAN_ID"),
        port=data.get_attr("IFLA_VXLAN_PORT"),
        local=ip_address(data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or "0.0.0.0"),
        underlay=names.get(data.get_attr("IFLA_VXLAN_LINK") or 0, ""),
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
        gbp=data.get_attr("IFLA_VXLAN_GBP") is not None,
        **_checksums(data),
    )


def _checksums(data: Any) -> dict[str, bool]:
    """What a device with an IPv6 underlay does with checksums; nothing over IPv4, where there is no choice."""
    if not data.get_attr("IFLA_VXLAN_LOCAL6"):
        return {}
    return {
        "sends_zero_csum6": bool(data.get_attr("IFLA_VXLAN_UDP_ZERO_CSUM6_TX")),
        "takes_zero_csum6": bool(data.get_attr("IFLA_VXLAN_UDP_ZERO_CSUM6_RX")),
    }


def addresses(ipr: Any, ours: dict[int, str], family: int) -> Iterator[Address]:
    """The addresses on our links, less those that the kernel gives by itself."""
    for message in ipr.get_addr(family=family):
        if message["index"] in ours:
            address = ip_interface(
                f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
            )
            if not (address.version == 6 and address.is_link_local):
                yield Address(link=ours[message["index"]], address=address)


def neighbours(ours: dict[int, str], family: int) -> Iterator[Neighbour]:
    """The permanent neighbours on our links."""
    for link, found in _neighbours(ours, family):
        mac = found.get(NDA_LLADDR)
        if mac and NDA_DST in found:
            yield Neighbour(link=link, address=_address(found[NDA_DST]), mac=mac.hex(":"))


def fdb(ours: dict[int, str]) -> Iterator[FdbEntry]:
    """The permanent forwarding entries of our links that lead somewhere."""
    for link, found in _neighbours(ours, AF_BRIDGE):
        # With Learning the kernel adds entries of its own, which age.
        if NDA_DST in found:
            yield FdbEntry(link=link, mac=found[NDA_LLADDR].hex(":"), dst=_address(found[NDA_DST]))


def _neighbours(ours: dict[int, str], family: int) -> Iterator[tuple[str, dict[int, bytes]]]:
    if not ours:
        return
    for _flags, message in dump(RTM_GETNEIGH, _NEIGHBOUR.pack(family, 0, 0, 0, 0)):
        _family, index, state, _neighbour_flags, _type = _NEIGHBOUR.unpack_from(message)
        if index in ours and state & NUD_PERMANENT:
            yield ours[index], attributes(message, _NEIGHBOUR.size)


def _address(data: bytes) -> IPAddress:
    return IPv4Address(data) if len(data) == 4 else IPv6Address(data)
