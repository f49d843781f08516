"""Interfaces, with what a diagnosis needs to know of them besides their addresses. Reads only."""

from __future__ import annotations

from overlayd.kernel import links as kernel
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class SurveyedLink:
    """One interface. `kind` is netlink's word (`bridge`, `vxlan`), None for hardware; `master` is its bridge.

    `peer` is the index of the other end of a pair (veth), in whichever namespace that is.
    """

    name: str
    index: int = 0
    peer: int | None = None
    mtu_bytes: int
    up: bool
    mac: str | None
    kind: str | None
    master: str | None


def links() -> tuple[SurveyedLink, ...]:
    """Every interface of this network namespace, by index."""
    there = kernel.read()
    names = {link.index: link.name for link in there}
    return tuple(
        SurveyedLink(
            name=link.name,
            index=link.index,
            peer=link.peer or None,
            mtu_bytes=link.mtu_bytes,
            up=link.up,
            mac=link.mac,
            kind=link.kind,
            master=names.get(link.master),
        )
        for link in there
    )
