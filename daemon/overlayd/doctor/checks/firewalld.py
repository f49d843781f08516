"""Whether a running firewalld lets the overlay through. Pure."""

from __future__ import annotations

from overlayd import backends
from overlayd.doctor.facts import Facts, FirewalldFacts, NetworkFacts
from overlayd.doctor.finding import Finding, ok, problem
from overlayd.ruleset.walk import protocol_name

BRIDGE, DOCKERS_ZONE = "docker0", "docker"


def firewalld(facts: Facts) -> Finding | None:
    """Whether a running firewalld accepts the overlay's packets; its nftables rules reject what no zone allows."""
    running, network = facts.firewall.firewalld, facts.network
    if running is None or network is None or not network.networks:
        return None
    rules = "\n".join(running.forwarded or ())
    if network.subnets and all(f'"{subnet}"' in rules for subnet in network.subnets):
        return ok("runs, and overlayd's policies in it accept the overlay's packets")
    if facts.firewall.kind != "none" and (running.forwarded is not None or running.shipped):
        return problem(
            "firewalld runs without rules for the overlay: it rejects the overlay's packets",
            # A running daemon fills the policies as soon as firewalld has loaded them, or when the daemon restarts.
            remedy="systemctl restart overlayd" if running.forwarded is not None else "firewall-cmd --reload",
        )
    missing = [
        *(word for device in network.devices for word in _zone_words(running, device, network)),
        *_bridge_words(running, network),
        *_port_words(running, facts.underlay.ifname, network),
    ]
    if missing:
        return problem(
            "firewalld runs and has the overlay in no zone: it rejects the overlay's packets",
            remedy=" && ".join(
                [*(f"firewall-cmd --permanent {word}" for word in dict.fromkeys(missing)), "firewall-cmd --reload"]
            ),
        )
    return ok("runs and accepts the overlay's packets")


def _zone_words(running: FirewalldFacts, device: str, network: NetworkFacts) -> list[str]:
    """Arguments for firewall-cmd that let packets from a device be forwarded."""
    zone = running.zone_of(device)
    sources = {source for zone in running.zones if zone.target == "ACCEPT" for source in zone.sources}
    missing = [str(one) for one in network.networks if str(one) not in sources]
    if not missing or (zone is not None and zone.target == "ACCEPT"):
        return []
    if device in network.own_devices:
        return [f"--zone=trusted --add-interface={device}"]
    # It is the underlay's interface: only the network's addresses are trusted on it.
    return [f"--zone=trusted --add-source={one}" for one in missing]


def _bridge_words(running: FirewalldFacts, network: NetworkFacts) -> list[str]:
    """The same for packets from the containers' bridge: Docker's own zone, as Docker makes it from 20.10 on.

    With its bridge in another zone dockerd does not start.
    """
    zone = running.zone_of(BRIDGE)
    sources = {source for zone in running.zones if zone.target == "ACCEPT" for source in zone.sources}
    tunnels = [device for device in network.devices if device in network.own_devices]
    if not tunnels or {str(one) for one in network.networks} <= sources or (zone and zone.target == "ACCEPT"):
        return []
    there = any(zone.name == DOCKERS_ZONE for zone in running.zones)
    made = [] if there else [f"--new-zone={DOCKERS_ZONE}", f"--zone={DOCKERS_ZONE} --set-target=ACCEPT"]
    return [*made, f"--zone={DOCKERS_ZONE} --change-interface={BRIDGE}"]


def _port_words(running: FirewalldFacts, ifname: str, network: NetworkFacts) -> list[str]:
    zone = running.zone_of(ifname)
    backend = backends.facts_of(network.backend)
    if backend is None or backend.carrier is None or zone is None or zone.target == "ACCEPT":
        return []
    protocol, port = protocol_name(backend.carrier.protocol), network.port or backend.default_port
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
