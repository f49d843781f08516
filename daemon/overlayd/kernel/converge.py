"""Make the kernel hold what a backend wants, and say which peers are the worse for what it refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from overlayd.kernel import netlink
from overlayd.kernel.diff import diff
from overlayd.kernel.state import (
    Address,
    FdbEntry,
    KernelState,
    Link,
    Neighbour,
    Route,
    Sysctl,
    Thing,
    WireguardPeer,
    link_settings,
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """How it went: operations written, what failed, and which peers are the worse for it.

    Peers are named by the last part of their lease's key. `paths` says how each is reached.
    """

    written: int = 0
    problems: tuple[str, ...] = ()
    peer_problems: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a backend wants in the kernel: what it stands on, and what each peer needs beside that.

    Peers are named by the last part of their lease's key. `problems` are those that cannot be programmed at all, with
    the reason; `paths` says in a word how each of the others is reached.
    """

    base: tuple[Thing, ...] = ()
    peers: Mapping[str, tuple[Thing, ...]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)

    def state(self) -> KernelState:
        """The whole as one desired state."""
        return _state([*self.base, *(item for items in self.peers.values() for item in items)])


def require(plan: Plan) -> None:
    """Make what a plan stands on, and delete nothing: what is there from before goes on carrying packets.

    Raises UnsupportedError, or the first KernelRefused.
    """
    for _operation, refusal in netlink.apply(diff(_state(plan.base), netlink.read(), prune=False)):
        raise refusal


def converge(plan: Plan) -> Report:
    """Bring the kernel to the plan; a second call writes nothing. Raises UnsupportedError, KernelRefused."""
    operations = diff(plan.state(), netlink.read())
    failed = netlink.apply(operations)
    problems: list[str] = []
    peer_problems = dict(plan.problems)
    owners = {item: peer for peer, items in plan.peers.items() for item in items}
    for operation, refusal in failed:
        peer = owners.get(operation.thing)
        if peer is None:
            problems.append(str(refusal))
        else:
            peer_problems[peer] = str(refusal)
    return Report(
        written=len(operations) - len(failed),
        problems=tuple(problems),
        peer_problems=peer_problems,
        paths=plan.paths,
    )


def _state(items: Iterable[Thing]) -> KernelState:
    found = list(items)
    with_ipv6 = {item.link for item in found if isinstance(item, Address) and item.address.version == 6}
    for item in [item for item in found if isinstance(item, Link)]:
        found += link_settings(item.name, ipv6=item.name in with_ipv6)
    return KernelState(
        links=frozenset(item for item in found if isinstance(item, Link)),
        addresses=frozenset(item for item in found if isinstance(item, Address)),
        routes=frozenset(item for item in found if isinstance(item, Route)),
        neighbours=frozenset(item for item in found if isinstance(item, Neighbour)),
        fdb=frozenset(item for item in found if isinstance(item, FdbEntry)),
        wireguard_peers=frozenset(item for item in found if isinstance(item, WireguardPeer)),
        sysctls=frozenset(item for item in found if isinstance(item, Sysctl)),
    )
