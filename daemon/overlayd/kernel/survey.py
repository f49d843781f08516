"""Interfaces, with what a diagnosis needs to know of them besides their addresses. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from overlayd.kernel.pyroute import IPRoute

IFF_UP = 1


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
    with IPRoute() as ipr:
        messages = sorted(ipr.get_links(), key=lambda message: message["index"])
    names = {message["index"]: message.get("ifname") for message in messages}
    found = []
    for message in messages:
        info = message.get("linkinfo")
        found.append(
            SurveyedLink(
                name=message.get("ifname"),
                index=message["index"],
                peer=message.get("link"),
                mtu_bytes=message.get("mtu"),
                up=bool(message["flags"] & IFF_UP),
                mac=message.get("address"),
                kind=info.get("kind") if info else None,
                master=names.get(message.get("master") or 0),
            )
        )
    return tuple(found)
