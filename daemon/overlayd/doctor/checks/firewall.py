"""Rules that would drop the overlay's packets, on the way in, on the way out, and at the backend's port. Pure.

Every check judges each family that this host has a subnet of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from overlayd.backends.listening import Listening
from overlayd.doctor.checks.firewalld import CARRIER, firewalld
from overlayd.doctor.facts import Facts, Network
from overlayd.doctor.finding import Finding, ok, problem, unknown, warning
from overlayd.firewall.table import NFT_LEASED, NFT_PEERS
from overlayd.lib.addresses import IPAddress, IPNetwork, ip_address
from overlayd.lib.marks import of
from overlayd.ruleset.iptables import addresses_in
from overlayd.ruleset.packet_path import FORWARDED, Match, PathDrops, trace_path
from overlayd.ruleset.walk import Packet, protocol_name

COMMANDS = {4: "iptables", 6: "ip6tables"}
# Some peer's: of no router, which our own rules tell from peers.
_PEERS_MAC = "02:00:00:00:00:00"
_BRIDGE_SYSCTL = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}
# Families, and hooks of any family, that see frames, not packets.
_OF_FRAMES = ("bridge", "netdev", "ingress", "egress")


def iptables(facts: Facts) -> Finding:
    """Whether the rules can be seen, and all of them by one kind of iptables."""
    kinds = facts.firewall.kinds
    unread = [f"{kind.command}: {kind.problem or 'not read'}" for kind in kinds if kind.tables is None]
    versions = {network.version for network in facts.network.networks} if facts.network is not None else {4}
    missing = sorted(versions - {kind.version for kind in kinds})
    unread += [f"there is no {COMMANDS[version]}, so rules for IPv{version} may be unseen" for version in missing]
    if unread:
        return unknown("iptables", "; ".join(unread))
    first = {kind.version: kind.command for kind in reversed(kinds)}
    others = {
        kind.command: count
        for kind in kinds
        if kind.command != first[kind.version] and kind.tables is not None
        if (count := sum(len(chain.rules) for chains in kind.tables.values() for chain in chains.values()))
    }
    if others:
        return warning(
            "iptables",
            f"{' and '.join(f'{count} rules are of {name}' for name, count in others.items())}, the other kind (legacy "
            "beside nft), which decides as well",
            advice=f"see {' and '.join(f'{name}-save' for name in others)}; keep one kind and flush the other",
        )
    return ok("iptables", f"rules read by {', '.join(kind.command for kind in kinds)}")


def docker_raw(facts: Facts) -> Finding | None:
    """Docker 28 drops in raw PREROUTING what is for a container and did not come by its bridge."""
    found: list[PathDrops] = []
    for network, subnet, device in _ways(facts):
        for address in _containers(facts, subnet):
            packet = _inward(facts, network, device, address)
            found.append(_travel(facts, packet, FORWARDED[:1], _match(packet, network)))
    what = f"packets on {', '.join(facts.network.devices) if facts.network else ''} for containers"
    return _judged("docker-raw", facts, found, what, "PREROUTING lets the overlay in")


def forward_in(facts: Facts) -> Finding | None:
    """From a peer's container to one of ours."""
    found = []
    for network, subnet, device in _ways(facts):
        packet = _inward(facts, network, device, subnet[2])
        found.append(_travel(facts, packet, FORWARDED[1:], _match(packet, network)))
    what = f"packets from {', '.join(facts.network.devices) if facts.network else ''} to containers"
    return _judged("forward-in", facts, found, what, "FORWARD lets peers' packets reach containers")


def forward_out(facts: Facts) -> Finding | None:
    """From one of our containers to a peer's."""
    found = []
    for network, subnet, device in _ways(facts):
        packet = Packet(
            source=subnet[2],
            destination=_peers_container(facts, network, subnet),
            in_device=_bridge(facts),
            out_device=device,
            local=False,
            sets=facts.firewall.sets,
            answered=True,
        )
        found.append(_travel(facts, packet, FORWARDED, _match(packet, network)))
    what = f"packets from containers to {', '.join(facts.network.devices) if facts.network else ''}"
    return _judged("forward-out", facts, found, what, "FORWARD lets containers' packets out")


def bridge_netfilter(facts: Facts) -> Finding | None:
    """With br_netfilter, packets between containers on one bridge pass the rules as well."""
    on = [version for version, name in _BRIDGE_SYSCTL.items() if facts.host.sysctls.get(name) == "1"]
    if not on:
        return ok("bridge-netfilter", "off: packets between containers of this host pass no iptables rule")
    if facts.docker.settings.get("icc") is False:
        return ok("bridge-netfilter", "on, and docker keeps containers of this host apart, as it is told by icc")
    found = []
    for _network, subnet in _overlays(facts):
        if subnet.version in on:
            packet = Packet(
                source=subnet[2],
                destination=subnet[3],
                in_device=_bridge(facts),
                out_device=_bridge(facts),
                local=False,
                sets=facts.firewall.sets,
                answered=True,
            )
            found.append(_travel(facts, packet, FORWARDED, Match(in_device=_bridge(facts), out_device=_bridge(facts))))
    what = "packets between containers of this host"
    return _judged(
        "bridge-netfilter", facts, found, what, "on, and FORWARD lets containers of this host reach each other"
    )


def backend_port(facts: Facts) -> Finding | None:
    """Whether the carrying packets are let in, and out."""
    network, here = facts.network, facts.underlay
    if network is None:
        return None
    found, shown = [], []
    for listening in _listens(network):
        own = _own_address(facts, listening.version)
        if own is None:
            continue
        protocol, port = protocol_name(listening.protocol), listening.port
        peer = _peer_address(facts, own)
        shown.append(f"{protocol} port {port}" if port else f"protocol {protocol}")
        sets = _with(facts, peer, NFT_PEERS, of(facts.number).peers)
        carrier = Packet(
            source=peer, destination=own, protocol=protocol, port=port, local=True, sets=sets, answered=True
        )
        inward = Packet(**{**vars(carrier), "in_device": here.ifname, "mac": _PEERS_MAC})
        match = Match(in_device=here.ifname, out_device=here.ifname, protocol=protocol, port=port)
        found.append(_travel(facts, inward, ("prerouting", "input"), match))
        outward = replace(carrier, source=own, destination=peer, out_device=here.ifname, local=False)
        found.append(_travel(facts, outward, ("output", "postrouting"), match))
    what = " and ".join(dict.fromkeys(shown))
    return _judged("backend-port", facts, found, f"{network.backend}'s packets ({what})", f"{what} is let in and out")


def strangers(facts: Facts) -> Finding | None:
    """Whether a packet from the underlay that is no peer's is kept from containers, as far as rules say."""
    overlays = [subnet for _network, subnet in _overlays(facts)]
    if not overlays or not _seen(facts):
        return None
    if facts.firewall.kind == "none":
        return warning(
            "strangers",
            "firewall is none: nothing of overlayd's keeps strangers from containers",
            advice="set OVERLAYD_FIREWALL=auto, unless rules of your own do it",
        )
    if facts.docker.settings.get("allow-direct-routing") is True:
        return ok("strangers", "let to containers' own addresses, as daemon.json asks")
    reached = []
    for subnet in overlays:
        bits = subnet.max_prefixlen
        packet = Packet(
            # Of the other half of all addresses, so of no network's.
            source=ip_address((int(subnet[2]) ^ 1 << bits - 1).to_bytes(bits // 8, "big")),
            destination=subnet[2],
            in_device=facts.underlay.ifname,
            out_device=_bridge(facts),
            local=False,
            sets=facts.firewall.sets,
        )
        if not _travel(facts, packet, FORWARDED[:1], Match()).drops:
            reached.append(str(subnet))
    if not reached:
        return ok("strangers", "who is no peer is kept from containers' own addresses")
    return warning(
        "strangers",
        f"who has a route to {' or '.join(reached)} by this host reaches containers there",
        advice="is overlayd running? It keeps the rules that drop this: systemctl status overlayd",
    )


def nftables(facts: Facts) -> Finding:
    """Whether nftables' rules can be seen, and those among them that see frames."""
    chains = facts.firewall.chains
    if chains is None:
        return unknown("nftables", "the ruleset could not be read")
    closing = [base.where for base in chains if {base.family, base.hook} & {*_OF_FRAMES} and base.may_drop]
    if closing:
        return warning(
            "nftables",
            f"chains that may drop frames, and are not judged here: {', '.join(closing)}",
            advice="see in `nft list ruleset` whether they let the network's addresses and the backend's port through",
        )
    return ok("nftables", "no chain that is not judged")


def docker_nftables(facts: Facts) -> Finding | None:
    """Docker 29's nftables backend: an accept elsewhere is not final there, only its own options open it."""
    if not facts.firewall.docker_nftables:
        return None
    dropping = []
    for network, subnet, device in _ways(facts):
        for address in _containers(facts, subnet):
            packet = _inward(facts, network, device, address)
            drops = _travel(facts, packet, FORWARDED, Match()).drops
            dropping += [drop.by for drop in drops if drop.table == "docker-bridges"]
    if not dropping:
        return ok("docker-nftables", "docker uses nftables, and its rules let the overlay's packets in")
    by_name = facts.docker.settings.get("firewall-backend") == "nftables"
    told = [
        "set OVERLAYD_FIREWALL=auto, as nobody marks peers' packets" if facts.firewall.kind == "none" else "",
        "" if by_name else 'say "firewall-backend": "nftables" in /etc/docker/daemon.json, by which overlayd knows',
        "systemctl restart overlayd docker",
    ]
    return problem(
        "docker-nftables",
        f"docker's nftables backend drops peers' packets: {dropping[0]}",
        advice="; then ".join(word for word in told if word),
    )


def _seen(facts: Facts) -> bool:
    return any(kind.tables is not None for kind in facts.firewall.kinds) or facts.firewall.chains is not None


def _overlays(facts: Facts) -> tuple[tuple[IPNetwork, IPNetwork], ...]:
    """Network and subnet of each family, if the rules could be seen."""
    return facts.network.overlays if facts.network is not None and _seen(facts) else ()


def _ways(facts: Facts) -> Iterator[tuple[IPNetwork, IPNetwork, str]]:
    """Network, subnet and device, for each device that packets of that family come by."""
    for network, subnet in _overlays(facts):
        for device in facts.network.devices_of(network.version) if facts.network is not None else ():
            yield network, subnet, device


def _travel(facts: Facts, packet: Packet, hooks: Sequence[str], match: Match) -> PathDrops:
    return trace_path(facts.firewall.kinds, facts.firewall.chains or (), packet, hooks, match)


def _inward(facts: Facts, network: IPNetwork, device: str, address: IPAddress) -> Packet:
    source = _peers_container(facts, network, None)
    return Packet(
        source=source,
        destination=address,
        in_device=device,
        out_device=_bridge(facts),
        mac=_PEERS_MAC,
        local=False,
        sets=_with(facts, source, NFT_LEASED, of(facts.number).leased),
        # Whether that is so is asked by rp-filter.
        answered=True,
    )


def _match(packet: Packet, network: IPNetwork) -> Match:
    return Match(in_device=packet.in_device, out_device=packet.out_device, source=network, destination=network)


def _judged(name: str, facts: Facts, found: Iterable[PathDrops], what: str, well: str) -> Finding | None:
    """Dropped for certain, or only if a rule applies that cannot be judged; None where nothing was to be judged."""
    outcomes = list(found)
    if not outcomes:
        return None
    drops = [drop for outcome in outcomes for drop in outcome.drops]
    certain = bool(drops)
    drops = drops or [drop for outcome in outcomes for drop in outcome.doubts]
    if not drops:
        return ok(name, well)
    said = f"{what} are dropped by {' and by '.join(dict.fromkeys(drop.by for drop in drops))}"
    told = firewalld(facts) if any(drop.table == "firewalld" for drop in drops) else None
    if told is not None and told.remedy is not None:
        # It forgets the rules of iptables as it reloads: those come after.
        remedy: str | None = told.remedy
        advice: str | None = "then run overlayd doctor again: other rules that drop are mended after firewalld"
    else:
        remedy = " && ".join(dict.fromkeys(drop.remedy for drop in drops if drop.remedy is not None)) or None
        helpless = " and ".join(dict.fromkeys(drop.table for drop in drops if drop.remedy is None))
        advice = f"an accept elsewhere is not final in {helpless}: whoever wrote that has to let them through"
        advice = advice if helpless else None
    if certain:
        return problem(name, said, remedy=remedy, advice=advice)
    return warning(name, f"some {said}", advice=f"if that is not meant for them: {remedy}" if remedy else advice)


def _containers(facts: Facts, subnet: IPNetwork) -> list[IPAddress]:
    """Addresses of containers that rules are for; where there are none, the first that a container has."""
    found: set[IPAddress] = set()
    for kind in facts.firewall.kinds:
        if kind.version == subnet.version and kind.tables is not None:
            found.update(addresses_in(kind.tables, "raw", "PREROUTING", subnet))
    for base in facts.firewall.chains or ():
        if base.hook == "prerouting":
            found.update(base.addresses(subnet))
    return sorted(found, key=int) or [subnet[2]]


def _bridge(facts: Facts) -> str:
    """The bridge of this host's containers."""
    return facts.network.bridge if facts.network is not None else of(facts.number).bridge


def _listens(network: Network) -> tuple[Listening, ...]:
    if network.listens or network.backend not in CARRIER:
        return network.listens
    protocol, usual = CARRIER[network.backend]
    version = 4 if network.network is not None else 6
    return (Listening(version=version, protocol=protocol, port=network.port or usual),)


def _own_address(facts: Facts, version: int) -> IPAddress | None:
    """The address that carrying packets of an IP version are for."""
    here = facts.underlay
    if here.address is not None and here.address.version == version:
        return here.address
    return here.public_ip6 if version == 6 else here.public_ip


def _peers_container(facts: Facts, network: IPNetwork, own: IPNetwork | None) -> IPAddress:
    """An address of a container on another host: a real peer's where one is known."""
    held = facts.network.subnets if facts.network is not None else ()
    for lease in facts.etcd.leases or ():
        if lease.subnet.version == network.version and lease.subnet not in (*held, own):
            return lease.subnet[2]
    ends = (network[2], network[-3])
    return next((end for end in ends if not any(end.version == one.version and end in one for one in held)), ends[0])


def _peer_address(facts: Facts, own: IPAddress) -> IPAddress:
    for lease in facts.etcd.leases or ():
        if lease.public_ip not in facts.underlay.public_ips and lease.public_ip.version == own.version:
            return lease.public_ip
    return ip_address((int(own) ^ 1).to_bytes(own.max_prefixlen // 8, "big"))


def _with(facts: Facts, address: IPAddress, kind: str, name_of: Callable[[int], str]) -> dict[str, frozenset[str]]:
    """The sets as if that address were a peer's: of a host that has none yet, it is asked what the next one meets.

    `kind` and `name_of` are those of our set in nftables and in iptables.
    """
    name, one = name_of(address.version), frozenset([str(address)])
    ours = {name: facts.firewall.sets[name] | one} if name in facts.firewall.sets else {}
    return {**facts.firewall.sets, **ours, kind: one}


CHECKS = (
    iptables,
    # First: it forgets the rules of others when it is mended.
    firewalld,
    docker_raw,
    forward_in,
    forward_out,
    bridge_netfilter,
    backend_port,
    strangers,
    nftables,
    docker_nftables,
)
