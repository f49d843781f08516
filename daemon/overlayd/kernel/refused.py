"""What the kernel refused, as a message: the operation, the object, the error, and a hint."""

from __future__ import annotations

import errno
from ipaddress import IPv6Interface, IPv6Network

from overlayd.errors import KernelRefused
from overlayd.kernel import interfaces
from overlayd.kernel.diff import Operation
from overlayd.kernel.state import Address, IpipLink, KernelObject, Route, VxlanLink, WireguardLink


def refused(operation: Operation, code: int) -> KernelRefused:
    """One operation that the kernel refused with an errno."""
    hint = None
    if code == errno.EACCES and (off := _without_ipv6_for(operation.object)):
        hint = f"IPv6 is switched off on {off}: sysctl -w net/ipv6/conf/{off}/disable_ipv6=0"
    if code == errno.EEXIST and isinstance(operation.object, Route):
        hint = f"a route that is not overlayd's is there: ip route show {operation.object.dst}"
    if code in (errno.EEXIST, errno.EADDRINUSE) and isinstance(operation.object, VxlanLink):
        vxlan = operation.object
        hint = (
            f"another device has VNI {vxlan.vni} on port {vxlan.port}, the port with other flags, or the name "
            f"{vxlan.name}: "
            "see `ip -d link show type vxlan`; flannel's own is removed with `ip link delete flannel.1`"
        )
    if code == errno.EEXIST and isinstance(operation.object, IpipLink):
        hint = (
            f"another device has local {operation.object.local} and no remote: see `ip -d link show type ipip`; "
            "flannel's own is removed with `ip link delete flannel.ipip`"
        )
    if code == errno.EADDRINUSE and isinstance(operation.object, WireguardLink):
        port = operation.object.listen_port
        hint = (
            f"see who has the port: ss -ulpn 'sport = :{port}'; flannel's device is removed with "
            "`ip link delete flannel-wg`"
        )
    return KernelRefused(operation.name, str(operation.object), code, hint=hint)


def _without_ipv6_for(item: KernelObject) -> str | None:
    """The interface, or `all`, by which IPv6 is switched off for an address or route."""
    match item:
        case Address(address=IPv6Interface()) | Route(dst=IPv6Network()):
            names = [item.link, "lo", "all"]
        case _:
            return None
    return next((name for name in names if name and interfaces.ipv6_is_off(name)), None)
