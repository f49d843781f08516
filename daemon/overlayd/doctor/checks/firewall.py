"""Rules that would drop the overlay's packets, on the way in, on the way out, and at the backend's port. Pure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from overlayd.doctor.facts import Facts, Firewalld, Network
from overlayd.doctor.finding import Finding, ok, problem, unknown, warning
from overlayd.doctor.trace import Packet, Tables, Verdict, addresses_in, trace

# What carries each backend's packets between hosts: protocol, and the port where the config names none.
CARRIER: dict[str, tuple[str, int | None]] = {
    "auto": ("udp", 8472),
    "vxlan": ("udp", 8472),
    "udp": ("udp", 8285),
    "wireguard": ("udp", 51820),
    "ipip": ("ipencap", None),
}


# Some peer's: of no router, which our own rules tell from peers.
_PEERS_MAC = "02:00:00:00:00:00"


def iptables(facts: Facts) -> Finding:
    """Whether the rules can be seen, and all of them by one kind of iptables."""
    here = facts.firewall
    if here.tables is None:
        return unknown("iptables", here.problem or "the rules could not be read")
    if here.other_kind:
        return warning(
            "iptables",
            f"{here.other_kind} rules are in the other kind of iptables (legacy beside nft), which decides as well",
            advice="see iptables-legacy-save and iptables-nft-save; keep one kind and flush the other",
        )
    return ok("iptables", "rules read")


def docker_raw(facts: Facts) -> Finding | None:
    """Docker 28 drops in raw PREROUTING what is for a container and did not come by its bridge."""
    seen = _seen(facts)
    if seen is None:
        return None
    tables, network, subnet = seen
    source = _peers_container(facts, network)
    for device in network.devices:
        for address in addresses_in(tables, "raw", "PREROUTING", subnet) or [subnet[2]]:
            packet = Packet(
                source=source,
                destination=address,
                in_device=device,
                mac=_PEERS_MAC,
                local=False,
                sets=_with_peer(facts, source),
            )
            verdict = trace(tables, "raw", "PREROUTING", packet)
            if verdict.dropped or verdict.doubts:
                return _bad(
                    "docker-raw",
                    verdict,
                    f"packets for {address} on {device}",
                    f"iptables -t raw -I PREROUTING -i {device} {_within(network)} -j ACCEPT",
                )
    return ok("docker-raw", "raw PREROUTING lets the overlay in")


def forward_in(facts: Facts) -> Finding | None:
    """From a peer's container to one of ours."""
    seen = _seen(facts)
    if seen is None:
        return None
    tables, network, subnet = seen
    for device in network.devices:
        packet = Packet(
            source=_peers_container(facts, network), destination=subnet[2], in_device=device, out_device=network.bridge
        )
        verdict = _forward(tables, packet)
        if verdict.dropped:
            way = f"-i {device} -o {network.bridge} {_within(network)}"
            return _bad("forward-in", verdict, f"packets from {device} to containers", _accept(tables, way))
    return ok("forward-in", "FORWARD lets peers' packets reach containers")


def forward_out(facts: Facts) -> Finding | None:
    """From one of our containers to a peer's."""
    seen = _seen(facts)
    if seen is None:
        return None
    tables, network, subnet = seen
    for device in network.devices:
        packet = Packet(
            source=subnet[2], destination=_peers_container(facts, network), in_device=network.bridge, out_device=device
        )
        verdict = _forward(tables, packet)
        if verdict.dropped:
            way = f"-i {network.bridge} -o {device} {_within(network)}"
            return _bad("forward-out", verdict, f"packets from containers to {device}", _accept(tables, way))
    return ok("forward-out", "FORWARD lets containers' packets out")


def bridge_netfilter(facts: Facts) -> Finding | None:
    """With br_netfilter, packets between containers on one bridge pass FORWARD as well."""
    on = facts.host.sysctls.get("net/bridge/bridge-nf-call-iptables")
    if on != "1":
        return ok("bridge-netfilter", "off: packets between containers of this host pass no iptables rule")
    seen = _seen(facts)
    if seen is None:
        return None
    tables, network, subnet = seen
    packet = Packet(source=subnet[2], destination=subnet[3], in_device=network.bridge, out_device=network.bridge)
    verdict = _forward(tables, packet)
    if verdict.dropped:
        way = f"-i {network.bridge} -o {network.bridge}"
        return _bad("bridge-netfilter", verdict, "packets between containers of this host", _accept(tables, way))
    return ok("bridge-netfilter", "on, and FORWARD lets containers of this host reach each other")


def backend_port(facts: Facts) -> Finding | None:
    """Whether INPUT lets the carrying packets in."""
    tables, network, here = facts.firewall.tables, facts.network, facts.underlay
    if tables is None or network is None or network.backend not in CARRIER or not isinstance(here.address, IPv4Address):
        return None
    protocol, port = CARRIER[network.backend][0], network.port or CARRIER[network.backend][1]
    source = _peer_address(facts, here.address)
    packet = Packet(
        source=source,
        destination=here.address,
        in_device=here.ifname,
        protocol=protocol,
        port=port,
        local=True,
        sets=_with_peer(facts, source),
    )
    what = f"{protocol} port {port}" if port else f"protocol {protocol}"
    match = f"-p {protocol}" + (f" --dport {port}" if port else "")
    for table, chain in (("raw", "PREROUTING"), ("filter", "INPUT")):
        verdict = trace(tables, table, chain, packet)
        if verdict.dropped:
            remedy = f"iptables -t {table} -I {chain} -i {here.ifname} {match} -j ACCEPT"
            return _bad("backend-port", verdict, f"{network.backend}'s packets ({what})", remedy)
    return ok("backend-port", f"{what} is let in")


def strangers(facts: Facts) -> Finding | None:
    """Whether a packet from the underlay that is no peer's is kept from containers, as far as rules of iptables say."""
    seen = _seen(facts)
    if seen is None:
        return None
    if facts.firewall.kind == "none":
        return warning(
            "strangers",
            "firewall is none: nothing of overlayd's keeps strangers from containers",
            advice="set OVERLAYD_FIREWALL=auto, unless rules of your own do it",
        )
    tables, network, subnet = seen
    packet = Packet(
        # Of the other half of all addresses, so of no network's.
        source=IPv4Address(int(subnet[2]) ^ 1 << 31),
        destination=subnet[2],
        in_device=facts.underlay.ifname,
        out_device=network.bridge,
        local=False,
        sets=facts.firewall.sets,
    )
    if facts.docker.settings.get("allow-direct-routing") is True:
        return ok("strangers", "let to containers' own addresses, as daemon.json asks")
    chains = (("raw", "PREROUTING"), ("mangle", "PREROUTING"))
    if facts.firewall.kind == "nftables" or any(trace(tables, *one, packet).dropped for one in chains):
        return ok("strangers", "who is no peer is kept from containers' own addresses")
    return warning(
        "strangers",
        f"who has a route to {subnet} by this host reaches containers there",
        advice="is overlayd running? It keeps the rules that drop this: systemctl status overlayd",
    )


def firewalld(facts: Facts) -> Finding | None:
    """Whether a running firewalld knows the overlay; its own nftables rules reject what no zone allows."""
    running, network = facts.firewall.firewalld, facts.network
    if running is None or network is None or network.network is None:
        return None
    if running.forwarded is not None and any(f'"{network.subnet}"' in rule for rule in running.forwarded):
        return ok("firewalld", "runs, and lets the overlay through by overlayd's own policies")
    if facts.firewall.kind != "none" and (running.forwarded is not None or running.shipped):
        return problem(
            "firewalld",
            "firewalld runs and was not told of the overlay: it rejects its packets",
            # A daemon that runs tells it as soon as it knows the policies, or is asked to begin anew.
            remedy="systemctl restart overlayd" if running.forwarded is not None else "firewall-cmd --reload",
        )
    missing = [
        *(word for device in network.devices if (word := _zone_word(running, device, network)) is not None),
        *_port_words(running, facts.underlay.ifname, network),
    ]
    if missing:
        return problem(
            "firewalld",
            "firewalld runs and does not know the overlay: it rejects its packets",
            remedy=" && ".join(
                [*(f"firewall-cmd --permanent {word}" for word in dict.fromkeys(missing)), "firewall-cmd --reload"]
            ),
        )
    return ok("firewalld", "runs and lets the overlay through")


def nftables(facts: Facts) -> Finding | None:
    """Rules in nftables tables of somebody else's, which no accept of iptables overrules."""
    if facts.firewall.closing is None:
        return unknown("nftables", "the ruleset could not be read")
    if facts.firewall.closing:
        return warning(
            "nftables",
            f"chains that may drop, and are not judged here: {', '.join(facts.firewall.closing)}",
            advice="see in `nft list ruleset` whether they let the network's addresses and the backend's port through",
        )
    return ok("nftables", "no foreign chain that drops")


def docker_nftables(facts: Facts) -> Finding | None:
    """Docker 29's nftables backend: an accept elsewhere is not final there, only its own options open it."""
    if not facts.firewall.docker_nftables:
        return None
    given = facts.docker.settings
    if given.get("firewall-backend") == "nftables" and facts.firewall.kind != "none":
        return ok("docker-nftables", "docker uses nftables, and overlayd gives it the options that let peers in")
    if given.get("allow-direct-routing") is True and given.get("bridge-accept-fwmark"):
        return ok("docker-nftables", "docker uses nftables, and its options let routed packets in")
    return problem(
        "docker-nftables",
        "docker uses its nftables backend, which drops routed packets whatever other tables accept",
        advice='say "firewall-backend": "nftables" in /etc/docker/daemon.json, by which overlayd knows, or "iptables"; '
        "then systemctl restart overlayd docker",
    )


def _seen(facts: Facts) -> tuple[Tables, Network, IPv4Network] | None:
    network = facts.network
    if facts.firewall.tables is None or network is None or network.subnet is None or network.network is None:
        return None
    return facts.firewall.tables, network, network.subnet


def _forward(tables: Tables, packet: Packet) -> Verdict:
    """What FORWARD decides; that published ports are let in is no comfort to the rest."""
    verdict = trace(tables, "filter", "FORWARD", packet)
    if verdict.dropped and verdict.doubts:
        ping = trace(tables, "filter", "FORWARD", replace(packet, protocol="icmp"))
        return ping if ping.dropped and not ping.doubts else verdict
    return verdict


def _bad(name: str, verdict: Verdict, what: str, remedy: str) -> Finding:
    """Dropped for certain, or only if a rule applies that cannot be judged."""
    if verdict.dropped and not verdict.doubts:
        return problem(name, f"{what} are dropped by {verdict.by}", remedy=remedy)
    rule = verdict.by if verdict.dropped else verdict.doubts[0]
    return warning(name, f"some {what} are dropped by {rule}", remedy=remedy)


def _accept(tables: Tables, way: str) -> str:
    """Docker's own chain for such rules where it is; an administrator's drops in it are then ours to overrule."""
    chain = "DOCKER-USER" if "DOCKER-USER" in tables.get("filter", {}) else "FORWARD"
    return f"iptables -I {chain} {way} -j ACCEPT"


def _within(network: Network) -> str:
    return f"-s {network.network} -d {network.network}"


def _peers_container(facts: Facts, network: Network) -> IPv4Address:
    """An address of a container on another host: a real peer's where one is known."""
    for lease in facts.etcd.leases or ():
        if isinstance(lease.subnet, IPv4Network) and lease.subnet != network.subnet:
            return lease.subnet[2]
    whole = network.network or IPv4Network("10.0.0.0/8")
    ends = (whole[2], whole[-3])
    return next((end for end in ends if network.subnet is None or end not in network.subnet), ends[0])


def _peer_address(facts: Facts, own: IPv4Address) -> IPv4Address:
    for lease in facts.etcd.leases or ():
        if lease.public_ip not in facts.underlay.public_ips and isinstance(lease.public_ip, IPv4Address):
            return lease.public_ip
    return IPv4Address(int(own) ^ 1)


def _with_peer(facts: Facts, address: IPv4Address) -> dict[str, frozenset[str]]:
    """Our sets as if that address were a peer's: of a host that has none yet, it is asked what the next one meets."""
    return {name: members | {str(address)} for name, members in facts.firewall.sets.items()}


def _zone_word(running: Firewalld, device: str, network: Network) -> str | None:
    """What to tell firewall-cmd so that packets from a device may be forwarded; None if nothing."""
    zone = running.zone_of(device)
    by_source = any(zone.target == "ACCEPT" and str(network.network) in zone.sources for zone in running.zones)
    if by_source or (zone is not None and zone.target == "ACCEPT"):
        return None
    if device in network.own_devices:
        return f"--zone=trusted --add-interface={device}"
    # The underlay's own interface: only the network's addresses are trusted on it.
    return f"--zone=trusted --add-source={network.network}"


def _port_words(running: Firewalld, ifname: str, network: Network) -> list[str]:
    zone = running.zone_of(ifname)
    if network.backend not in CARRIER or zone is None or zone.target == "ACCEPT":
        return []
    protocol, port = CARRIER[network.backend][0], network.port or CARRIER[network.backend][1]
    if port is None:
        return [] if protocol in zone.protocols else [f"--zone={zone.name} --add-protocol={protocol}"]
    return [] if _open(zone.ports, port, protocol) else [f"--zone={zone.name} --add-port={port}/{protocol}"]


def _open(ports: frozenset[str], port: int, protocol: str) -> bool:
    for entry in ports:
        numbers, _, kind = entry.partition("/")
        low, _, high = numbers.partition("-")
        if kind == protocol and low.isdigit() and int(low) <= port <= int(high or low):
            return True
    return False


CHECKS = (
    iptables,
    docker_raw,
    forward_in,
    forward_out,
    bridge_netfilter,
    backend_port,
    strangers,
    firewalld,
    nftables,
    docker_nftables,
)
