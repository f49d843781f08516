"""What no overlay may take from a host: addresses that it needs, and networks that it reaches by itself. Pure.

What is wrong on every host is judged with the network config (network_config.py); here is what depends on the host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import field
from typing import ClassVar

from overlayd.leases.network_config import NetworkConfig
from overlayd.lib.addresses import IPNetwork, is_within, overlaps
from overlayd.lib.quick_dataclass import dataclass

SHOWN_AT_MOST = 10
OWN_ADDRESS = "this host's own address"


@dataclass(frozen=True, kw_only=True)
class HostNeed:
    """A network, or one address with its full length, that this host has to go on reaching as it does.

    `what` is a word for it. `ifname` is the interface by which it is reached without a router, or whose own address it
    is; None where it is neither.
    """

    network: IPNetwork
    what: str
    ifname: str | None = None

    @property
    def is_address(self) -> bool:
        """Whether it is one address."""
        return self.network.prefixlen == self.network.max_prefixlen

    def __str__(self) -> str:
        return f"{self.what} {self.network.network_address if self.is_address else self.network}"


@dataclass
class CurrentNeeds:
    """What this host needs, as it was last read."""

    needed: tuple[HostNeed, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A network config on one host. With `refusals` this host cannot serve it; `remarks` its author may not know."""

    refusals: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The sentences to show to a person: SHOWN_AT_MOST of them, and how many more there are."""
        found = (*self.refusals, *self.remarks)
        yield from found[:SHOWN_AT_MOST]
        if len(found) > SHOWN_AT_MOST:
            yield f"and {len(found) - SHOWN_AT_MOST} more"

    HINT: ClassVar[str] = "choose a network that nobody here uses, for example 10.42.0.0/16"


def judge_network(config: NetworkConfig, needed: Collection[HostNeed], *, one_route: bool) -> Judgement:
    """What a network would take from a host. `one_route`: the backend routes the whole network into the overlay.

    A network that holds needed addresses can be served, as subnets with one of them are never leased nor programmed: a
    10.0.0.0/8 over an underlay of 10.1.2.0/24 is in use. One that is itself a part of a network that this host reaches
    by itself cannot, as each of its subnets would take somebody's address there.
    """
    refusals: dict[str, None] = {}
    remarks: dict[str, None] = {}
    for network in config.networks:
        near = [one.network for one in needed if one.ifname is not None and not one.is_address]
        for one in _overlapping(network, needed):
            if one.ifname is not None and not one.is_address and is_within(network, one.network):
                refusals[f"the network {network} is a part of {one}, which this host reaches without a router"] = None
            elif one_route and one.ifname is None and not any(is_within(one.network, lan) for lan in near):
                refusals[
                    f"the network {network} holds {one}, and backend {config.backend_type} routes the whole network "
                    "into the overlay"
                ] = None
            else:
                remarks[f"the network {network} holds {one}: no subnet with it is leased or routed"] = None
    return Judgement(refusals=tuple(refusals), remarks=tuple(remarks))


def _overlapping(network: IPNetwork, needed: Iterable[HostNeed]) -> Iterator[HostNeed]:
    return (one for one in needed if overlaps(one.network, network))


def avoided(needed: Iterable[HostNeed], ifname: str, *, held: Iterable[IPNetwork]) -> list[IPNetwork]:
    """The networks that no subnet of this host may overlap with: a bridge there would cut the host off from them."""
    return [one.network for one in without_container_bridge(needed, ifname, held=held)]


def without_container_bridge(needed: Iterable[HostNeed], ifname: str, *, held: Iterable[IPNetwork]) -> list[HostNeed]:
    """The needs without those of the bridge of this host's containers: it is on a subnet that this host `held`.

    `ifname` is the underlay's, which is never that bridge.
    """
    subnets = list(held)
    return [
        one
        for one in needed
        if one.ifname in (ifname, None) or not any(is_within(one.network, subnet) for subnet in subnets)
    ]


def taken_by(subnet: IPNetwork, needed: Iterable[HostNeed]) -> str | None:
    """What a subnet would take from this host, in words, and what to do."""
    # A network says more than this host's own address in it.
    for one in sorted(_overlapping(subnet, needed), key=lambda one: one.is_address):
        words = f"{'holds' if is_within(one.network, subnet) else 'is a part of'} {one}"
        return words if one.is_address else f"{words}: {one.ifname} stays as it is; if it is docker's, {_MOVE_IT}"
    return None


_MOVE_IT = "give it another subnet (docker network ls)"
