"""Make the kernel hold what a backend wants, and say which peers are the worse for what it refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from overlayd.kernel import netlink
from overlayd.kernel.diff import diff
from overlayd.kernel.state import (
    FORWARDING,
    Address,
    FdbEntry,
    KernelState,
    Neighbour,
    Route,
    Thing,
    TunLink,
    VxlanLink,
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """How it went: operations written, what failed, and which peers are the worse for it, by subnet."""

    written: int = 0
    problems: tuple[str, ...] = ()
    peer_problems: Mapping[IPv4Network, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a backend wants in the kernel: what it stands on, and what each peer's subnet needs beside that.

    `problems` are the peers that cannot be programmed at all, with the reason.
    """

    base: tuple[Thing, ...] = ()
    peers: Mapping[IPv4Network, tuple[Thing, ...]] = field(default_factory=dict)
    problems: Mapping[IPv4Network, str] = field(default_factory=dict)

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
    """Bring the kernel to the plan; a second call writes nothing. Raises UnsupportedError, and OSError never."""
    operations = diff(plan.state(), netlink.read())
    failed = netlink.apply(operations)
    problems: list[str] = []
    peer_problems = dict(plan.problems)
    owners = {item: subnet for subnet, items in plan.peers.items() for item in items}
    for operation, refusal in failed:
        subnet = owners.get(operation.thing)
        if subnet is None:
            problems.append(str(refusal))
        else:
            peer_problems[subnet] = str(refusal)
    return Report(written=len(operations) - len(failed), problems=tuple(problems), peer_problems=peer_problems)


def _state(items: Iterable[Thing]) -> KernelState:
    found = list(items)
    return KernelState(
        links=frozenset(item for item in found if isinstance(item, VxlanLink | TunLink)),
        addresses=frozenset(item for item in found if isinstance(item, Address)),
        routes=frozenset(item for item in found if isinstance(item, Route)),
        neighbours=frozenset(item for item in found if isinstance(item, Neighbour)),
        fdb=frozenset(item for item in found if isinstance(item, FdbEntry)),
        # Every backend routes between the containers' bridge and its own devices.
        sysctls=frozenset({FORWARDING}),
    )
