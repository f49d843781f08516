"""The results of pings as values, as a table and as JSON. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.tables import columns


@dataclass(frozen=True, kw_only=True)
class PathResult:
    """The result for one path to a peer: to its public address (underlay) or to an address in its subnet (overlay).

    `answered_by` is the address that answered, None if none did. `silent` are the addresses of `tried` that did not
    answer where another one did. `wished_bytes` is the largest packet that has to get through, `path_bytes` the largest
    that does; both count whole IP packets.
    """

    tried: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    answered_by: str | None = None
    sent: int = 0
    received: int = 0
    rtt_ms: float | None = None
    wished_bytes: int | None = None
    path_bytes: int | None = None
    problem: str | None = None

    @property
    def too_small(self) -> bool:
        """Whether packets of the needed size are lost."""
        return self.path_bytes is not None and self.wished_bytes is not None and self.path_bytes < self.wished_bytes


@dataclass(frozen=True, kw_only=True)
class PeerReport:
    """One peer by one IP version of the overlay, with the result for each path.

    `overlay` is the path to the peer's host by the overlay, `containers` that from a container here to one there, None
    where it was not tried. `known`: a container is known to be there. `said` is the problem that the daemon
    reports; the JSON has that name.
    """

    subnet: str
    public_ip: str
    backend: str
    version: int
    underlay: PathResult
    overlay: PathResult
    containers: PathResult | None = None
    known: bool = False
    said: str | None = None

    @property
    def well(self) -> bool:
        """Whether containers reach the peer: one there (or the host, if none is known) answers packets of their MTU."""
        container = self.containers
        if container is not None and (self.known or container.answered_by is not None):
            return container.answered_by is not None and not container.too_small and not self.overlay.too_small
        return self.overlay.answered_by is not None and not self.overlay.too_small

    def remarks(self) -> list[str]:
        """Remarks below the peer's row in the table, one sentence each."""
        return [*_overlay_remarks(self), *_container_remarks(self), *_underlay_remarks(self)]


def _container_remarks(peer: PeerReport) -> list[str]:
    result = peer.containers
    if result is None:
        return []
    if result.answered_by is None:
        if peer.known:
            words = f"containers: {result.problem or 'no answer'} ({', '.join(result.tried)})"
            return [words, *([f"this host's daemon says: {peer.said}"] if peer.said else [])]
        if peer.overlay.answered_by is not None:
            return [f"containers: none is known, and nobody answers from {result.tried[0]} to {result.tried[-1]}"]
        return []
    if result.too_small:
        return [
            f"containers: they send packets of {result.wished_bytes} bytes, {result.path_bytes} come through"
            + (f"; {result.problem}" if result.problem else "")
        ]
    return (
        [f"containers: {result.sent - result.received} of {result.sent} echoes lost"]
        if result.received < result.sent
        else []
    )


def _overlay_remarks(peer: PeerReport) -> list[str]:
    result, remarks = peer.overlay, []
    if result.answered_by is None:
        remarks.append(f"overlay: {result.problem or 'no answer'} ({', '.join(result.tried)})")
        if peer.underlay.answered_by is not None:
            remarks.append("the host is up: see `overlayd doctor` on both ends")
    elif result.too_small:
        remarks.append(
            f"overlay: containers send packets of {result.wished_bytes} bytes, {result.path_bytes} come through"
            + (f"; {result.problem}" if result.problem else "")
        )
    if result.silent and result.silent == result.tried[1:]:
        remarks.append(
            f"overlay: {result.silent[0]}, docker's bridge, does not answer: is docker there on another subnet?"
        )
    if result.answered_by is not None and result.received < result.sent:
        remarks.append(f"overlay: {result.sent - result.received} of {result.sent} echoes lost")
    return remarks


def _underlay_remarks(peer: PeerReport) -> list[str]:
    result = peer.underlay
    if result.answered_by is None:
        if peer.overlay.answered_by is not None:
            return [f"underlay: {peer.public_ip} does not answer echoes itself, which does no harm"]
        return [f"underlay: {result.problem or 'no answer'}"]
    if result.too_small:
        return [
            f"underlay: {peer.backend} needs packets of {result.wished_bytes} bytes, {result.path_bytes} come through"
            + (f"; {result.problem}" if result.problem else "")
        ]
    return []


def table(peers: Sequence[PeerReport]) -> list[str]:
    """The lines of a table, with remarks below the row of the peer."""
    rows = [("PEER", "SUBNET", "UNDERLAY", "HOST", "CONTAINERS", "ANSWERED BY", "PATH MTU")]
    rows += [
        (
            peer.public_ip,
            peer.subnet,
            _round_trip(peer.underlay),
            _round_trip(peer.overlay),
            _round_trip(peer.containers) if peer.containers is not None else "not tried",
            _best(peer).answered_by or "-",
            _size(_best(peer)),
        )
        for peer in peers
    ]
    lines = list(columns(rows))
    found = lines[:1]
    for line, peer in zip(lines[1:], peers, strict=True):
        found += [line, *(f"  {remark}" for remark in peer.remarks())]
    return found


def _best(peer: PeerReport) -> PathResult:
    """The path for the table's last columns: that to containers where one answers, else that to the host."""
    container = peer.containers
    return container if container is not None and container.answered_by is not None else peer.overlay


def document(peers: Sequence[PeerReport]) -> dict[str, Any]:
    """The document for `--json`."""
    return {
        "well": all(peer.well for peer in peers),
        "peers": [{**dataclasses.asdict(peer), "well": peer.well, "remarks": peer.remarks()} for peer in peers],
    }


def _round_trip(result: PathResult) -> str:
    return "no answer" if result.rtt_ms is None else f"{result.rtt_ms:.2f} ms"


def _size(result: PathResult) -> str:
    if result.path_bytes is None:
        return "-"
    return f"{result.path_bytes} of {result.wished_bytes}" if result.too_small else str(result.path_bytes)
