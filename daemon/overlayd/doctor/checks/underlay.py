"""The interface that carries the overlay, and the devices on top of it. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address

from overlayd import backends
from overlayd.doctor.facts import Facts
from overlayd.doctor.finding import Finding, ok, problem, unknown, warning
from overlayd.leases.conflicts import Judgement

STRICT = 1
# Drivers whose tunnel offloads are known to spoil or lose VXLAN packets, and what is known.
BAD_OFFLOADS = {
    "vmxnet3": (
        # OpenShift switches these off on vSphere (Bugzilla 1941246, 1998106: vmxnet3 version 4, RHEL 8.3's kernel).
        frozenset({"tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"}),
        "vmxnet3 is known to lose VXLAN packets with tunnel offloads on, depending on ESXi and hardware version",
    ),
}
_LISTS_DEVICES = {"NetworkManager": "nmcli device", "networkd": "networkctl list"}


def underlay(facts: Facts) -> Finding:
    """Whether there is an underlay interface, and it is up."""
    here = facts.underlay
    if here.problem is not None:
        return problem(here.problem, advice=here.advice)
    link = facts.host.link(here.ifname)
    if link is None or not link.up:
        return problem(f"{here.ifname} is down", remedy=f"ip link set dev {here.ifname} up")
    return ok(f"{here.ifname}, {here.address}, peers send to {', '.join(map(str, here.public_ips))}")


def network_bounds(facts: Facts) -> Finding | None:
    """Whether the network holds addresses that this host needs."""
    if facts.network is None:
        return None
    if facts.network.refusals:
        return problem("; ".join(facts.network.refusals), advice=Judgement.HINT)
    if facts.network.remarks:
        return warning(
            "; ".join(facts.network.remarks),
            advice="containers do not reach machines there that run no overlayd, as their packets are not masqueraded",
        )
    return ok("the network holds nothing that this host needs")


def underlay_mtu(facts: Facts) -> Finding | None:
    """Whether a container's packet of the full size, encapsulated, fits the interface."""
    network, link = facts.network, facts.host.link(facts.underlay.ifname)
    if network is None or link is None:
        return unknown("there is no interface or no network to compare")
    backend = backends.facts_of(network.backend)
    if backend is None or backend.overhead_bytes is None:
        return None
    overhead = backend.overhead_bytes[6 if network.ipv6 else 4]
    needed = network.mtu_bytes + overhead
    found = (
        f"containers send {network.mtu_bytes}, {network.backend} adds {overhead}, {link.name} takes {link.mtu_bytes}"
    )
    if link.mtu_bytes < needed:
        return problem(
            found,
            remedy=f"ip link set dev {link.name} mtu {needed}",
            advice="if the network takes no more: systemctl restart overlayd, then restart docker and its containers",
        )
    return ok(f"{found}; `overlayd ping` measures the whole way")


def container_mtu(facts: Facts) -> Finding | None:
    """Whether docker's bridge and the containers on it have the MTU of the lease."""
    network = facts.network
    bridge = facts.host.link(network.bridge) if network else None
    if bridge is None or network is None:
        return None
    large = [
        link.name for link in facts.host.links if link.master == bridge.name and link.mtu_bytes > network.mtu_bytes
    ]
    if large:
        message = (
            f"{len(large)} containers send packets larger than {network.mtu_bytes} ({', '.join(large[:4])}): each "
            "connection begins with a lost packet, or hangs where ICMP is filtered"
        )
        if facts.number:
            # Docker's options that overlayd writes are for docker0.
            return warning(
                message,
                advice=f"make the docker network of {bridge.name} anew, with its containers: docker network create "
                f"--opt com.docker.network.driver.mtu={network.mtu_bytes} and the options that it had",
            )
        return warning(
            message,
            # A container keeps the MTU that docker had when it was started, and so does docker.
            remedy="docker restart $(docker ps -q)"
            if facts.docker.compared and not facts.docker.otherwise and not facts.docker.conflicts
            else "ids=$(docker ps -q); systemctl restart docker && docker restart $ids",
            advice=f"mend this first: {facts.docker.conflicts[0]}" if facts.docker.conflicts else None,
        )
    if bridge.mtu_bytes < network.mtu_bytes:
        return warning(
            f"{bridge.name} takes {bridge.mtu_bytes}, peers' containers send {network.mtu_bytes}",
            remedy=f"ip link set dev {bridge.name} mtu {network.mtu_bytes}",
        )
    return ok(f"{network.mtu_bytes}")


def overlay_device(facts: Facts) -> Finding | None:
    """Whether the backend's device is there, as it was made."""
    if facts.network is None or not facts.network.own_devices:
        return None
    mtu_bytes = facts.network.mtu_bytes
    for name in facts.network.own_devices:
        link = facts.host.link(name)
        if link is None:
            return problem(f"{name} is not there", remedy="systemctl restart overlayd")
        if not link.up:
            # The kernel removed its routes and neighbours: setting it up alone does not bring them back.
            return problem(f"{name} is down", remedy="systemctl restart overlayd")
        if link.mtu_bytes != mtu_bytes:
            return problem(
                f"{name} has MTU {link.mtu_bytes}, not {mtu_bytes}",
                remedy=f"ip link set dev {name} mtu {mtu_bytes}",
            )
        published = _published_macs(facts)
        if link.kind == "vxlan" and published and link.mac not in published:
            return problem(
                f"{name} has MAC {link.mac}, peers were told {', '.join(sorted(published))}: their packets are dropped",
                remedy="systemctl restart overlayd",
                advice="another program changes it: see interface-manager",
            )
    return ok(f"{', '.join(facts.network.own_devices)} is up")


def interface_manager(facts: Facts) -> Finding | None:
    """Whether NetworkManager or networkd wants our devices for itself."""
    claimed, silent = facts.underlay.managers, facts.underlay.silent_managers
    if not claimed and not silent:
        return None
    if not claimed:
        return unknown(
            f"{' and '.join(silent)} did not say in time which devices it manages",
            advice="ask again with " + " and ".join(f"`{_LISTS_DEVICES[name]}`" for name in silent),
        )
    name, manager = next(iter(claimed.items()))
    remedy = (
        f"nmcli device set {name} managed no"
        if manager == "NetworkManager"
        else "printf '[Match]\\nName=overlay*\\n[Link]\\nUnmanaged=yes\\n' > /etc/systemd/network/05-overlayd.network "
        "&& networkctl reload"
    )
    return warning(f"{manager} manages {name}: it may readdress or remove it", remedy=remedy)


def reverse_path(facts: Facts) -> Finding | None:
    """Strict rp_filter drops packets that arrive by another interface than the answer would leave by (RFC 3704)."""
    if facts.network is None or not facts.underlay.ifname:
        return None
    strict = [
        name
        for name in dict.fromkeys((facts.underlay.ifname, *facts.network.devices))
        if max(facts.host.number(f"net/ipv4/conf/{scope}/rp_filter") or 0 for scope in ("all", name)) == STRICT
    ]
    if not strict:
        return ok("not strict")
    network, underlay_name = facts.network, facts.underlay.ifname
    for way in facts.underlay.return_routes:
        outer_astray = way.underlay not in (underlay_name, None) and underlay_name in strict
        inner_astray = way.overlay not in (*network.devices, None) and network.devices[0] in strict
        if outer_astray or inner_astray:
            name, back = (underlay_name, way.underlay) if outer_astray else (network.devices[0], way.overlay)
            return problem(
                f"strict on {name}, but the route back to {way.peer} is {back}: its packets are dropped",
                remedy=f"sysctl -w net/ipv4/conf/{name}/rp_filter=2",
            )
    return ok(f"strict on {', '.join(strict)}; answers to each peer leave by the interface that its packets arrive on")


def checksum_offload(facts: Facts) -> Finding | None:
    """Whether the network card is one that is known to handle VXLAN badly."""
    here = facts.underlay
    backend = backends.facts_of(facts.network.backend) if facts.network is not None else None
    if backend is None or backend.device_kind != "vxlan" or not here.ifname:
        return None
    if here.driver is None or here.offloads is None:
        return ok(f"{here.ifname} has no driver that can be read by ethtool")
    features, known = BAD_OFFLOADS.get(here.driver, (frozenset(), ""))
    on = sorted(features & here.offloads)
    if on:
        return warning(
            f"{known}; on {here.ifname}: {', '.join(on)}",
            remedy=f"ethtool -K {here.ifname} " + " ".join(f"{name} off" for name in on),
        )
    return ok(f"no problem is known with driver {here.driver}")


def duplicate_address(facts: Facts) -> Finding | None:
    """Whether another host has this host's address: peers' packets go to whichever answered ARP last."""
    here = facts.underlay
    if not isinstance(here.address, IPv4Address):
        return None
    if here.same_address is None:
        return unknown(f"could not find out whether {here.address} has another owner")
    if here.same_address:
        return problem(
            f"{here.address} is also {', '.join(here.same_address)}'s",
            advice="find the host with that MAC and give one of the two another address",
        )
    return ok(f"nobody else answers for {here.address}")


def _published_macs(facts: Facts) -> set[str]:
    """The MACs of our devices as published in the lease; each family has its own."""
    own = facts.network.subnets if facts.network is not None else ()
    return {lease.mac for lease in facts.etcd.leases or () if lease.subnet in own and lease.mac is not None}


# Name and check, in the order in which a reader should mend things.
CHECKS = {
    "underlay": underlay,
    "network-bounds": network_bounds,
    "underlay-mtu": underlay_mtu,
    "container-mtu": container_mtu,
    "overlay-device": overlay_device,
    "interface-manager": interface_manager,
    "rp-filter": reverse_path,
    "checksum-offload": checksum_offload,
    "duplicate-address": duplicate_address,
}
