"""What others may do to a host: delete, change and add things of ours, flap links, and have things of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hypothesis import strategies as st

from overlayd.kernel.diff import Operation, OperationKind
from overlayd.kernel.foreign import ForeignRoute
from overlayd.kernel.state import FdbEntry, KernelObject, Neighbour, Route, Sysctl, VxlanLink, WireguardPeer
from overlayd.lib.addresses import ip_network, subnet_at
from tests.unit.kernel.model import Event, Interface, Kernel, LinkGone, LinkSet, MacSet, Refused
from tests.unit.kernel.scenes import UNDERLAY

OTHER_MAC = "02:aa:aa:aa:aa:aa"
RTPROT_STATIC = 4
STRANGER = IPv4Address("198.18.1.200")


def foreign_interfaces() -> tuple[Interface, ...]:
    """Links of others: docker's bridge, and flannel's own device with a VNI and a port that are not ours."""
    return (
        Interface(name="docker0", mtu_bytes=1500, addresses=(IPv4Interface("10.99.0.1/24"),)),
        Interface(name="flannel.9", mtu_bytes=1450, vni=1, port=8477),
    )


def foreign_routes() -> st.SearchStrategy[Route]:
    """Routes of others: some to nowhere near us, around or in what a peer's lease will be; flannel's too."""
    near = st.integers(2, 7).map(lambda number: IPv4Network(f"10.5.{number}.0/24"))
    environment = st.sampled_from(["10.5.0.0/16", "10.5.0.0/21", "10.5.2.0/25", "10.5.3.64/26"]).map(IPv4Network)
    away = st.integers(1, 9).map(lambda number: IPv4Network(f"10.99.{number}.0/24"))
    by = st.sampled_from([STRANGER, STRANGER, *(IPv4Address(f"198.18.1.{number}") for number in range(2, 8))])
    return st.builds(
        lambda dst, via, metric: Route(dst=dst, link=UNDERLAY.name, via=via, metric=metric),
        near | near | environment | away,
        by,
        st.sampled_from([0, 0, 100]),
    )


def as_seen(routes: Iterable[Route]) -> list[ForeignRoute]:
    """Routes of others as a look at the kernel tells of them; all were put there by hand."""
    return [
        ForeignRoute(dst=one.dst, link=one.link, via=one.via, metric=one.metric, protocol=RTPROT_STATIC)
        for one in routes
    ]


def damage(kernel: Kernel, choices: Sequence[tuple[int, int]]) -> Iterator[Event]:
    """Events that are possible when each comes, one for each choice: what is done, and to what."""
    for choice in choices:
        yield from happenings(kernel, choice)


def happenings(kernel: Kernel, choice: tuple[int, int]) -> tuple[Event, ...]:
    """One thing that somebody does: nothing, an event, or two that belong together."""
    which, to_what = choice
    candidates = _candidates(kernel, to_what)
    event = candidates[which % len(candidates)]
    if event and all(isinstance(one, Operation) for one in event) and not _possible(kernel, event):
        return ()
    return event


def _candidates(kernel: Kernel, number: int) -> list[tuple[Event, ...]]:
    found: list[tuple[Event, ...]] = [
        (),
        (LinkSet(link=UNDERLAY.name, up=False), LinkSet(link=UNDERLAY.name, up=True)),
    ]
    links = sorted(kernel.links.values(), key=str)
    if links:
        link = links[number % len(links)]
        found += [
            (LinkGone(link=link.name),),
            (LinkSet(link=link.name, up=False),),
            (LinkSet(link=link.name, up=False), LinkSet(link=link.name, up=True)),
            (LinkSet(link=link.name, up=True),),
        ]
        if isinstance(link, VxlanLink):
            found += [(MacSet(link=link.name, mac=OTHER_MAC),), *_stale(link, number)]
    there = sorted((one for one in kernel.objects.values() if not isinstance(one, Sysctl)), key=str)
    if there:
        item = there[number % len(there)]
        found.append((Operation(OperationKind.DELETE, item),))
        if (other := _otherwise(item)) is not None:
            found.append((Operation(OperationKind.CHANGE, other),))
    return found


def _stale(link: VxlanLink, number: int) -> list[tuple[Event, ...]]:
    """Things on a link of ours that no lease asks for."""
    network = ip_network("10.5.0.0/16" if link.local.version == 4 else "fd42::/48")
    length = 24 if network.version == 4 else 64
    host_bits = network.max_prefixlen - length
    subnet = subnet_at(network, length, int(network.network_address) + ((100 + number % 50) << host_bits))
    base, mac = subnet.network_address, f"02:bb:00:00:00:{number % 256:02x}"
    far = link.local + 100
    return [
        (Operation(OperationKind.ADD, Neighbour(link=link.name, address=base, mac=mac)),),
        (Operation(OperationKind.ADD, FdbEntry(link=link.name, mac=mac, dst=far)),),
        (Operation(OperationKind.ADD, Route(dst=subnet, link=link.name, via=base, onlink=True)),),
        (Operation(OperationKind.ADD, Route(dst=subnet, link=None, metric=7)),),
    ]


def _otherwise(item: KernelObject) -> KernelObject | None:
    """The same key with another content."""
    match item:
        case Neighbour():
            return replace(item, mac=OTHER_MAC)
        case FdbEntry():
            return replace(item, dst=item.dst + 100)
        case WireguardPeer():
            return replace(item, allowed_ips=frozenset())
        case Route(link=str(), onlink=True, via=via) if via is not None:
            return replace(item, via=via + 1)
        case Route(dst=IPv4Network(), link=UNDERLAY.name, via=via) if via is not None:
            return replace(item, via=STRANGER)
    return None


def _possible(kernel: Kernel, events: tuple[Event, ...]) -> bool:
    trial = kernel.copy()
    try:
        for event in events:
            trial.happen(event)
    except Refused:
        return False
    return True
