"""Connections as a matrix: host by host for each backend, Docker and kernel. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.testbed.records import Connection

# Beyond that, single squares tell nobody anything: the count stands alone.
_HOSTS_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Square:
    """From one host to another: `all`, `some` or `none` of the packets were answered; `unasked` where none was sent."""

    source: str
    target: str
    state: str
    sent: int = 0
    lost: int = 0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All pairs of hosts of one backend, Docker and kernel; `rows` are empty where there are too many hosts."""

    pairs: int
    whole: int
    rows: tuple[tuple[Square, ...], ...]

    @property
    def well(self) -> bool:
        """Whether no packet was lost."""
        return self.pairs == self.whole


@dataclass(frozen=True, kw_only=True)
class Lossy:
    """A pair of hosts that lost packets, and where."""

    square: Square
    backend: str
    docker: str
    kernel: str


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A row for each kernel and Docker, a column for each backend; and the pairs that lost packets."""

    backends: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell | None, ...]], ...]
    lossy: tuple[Lossy, ...]

    @property
    def pairs(self) -> int:
        """How many pairs of hosts there are in all."""
        return sum(cell.pairs for _, _, cells in self.rows for cell in cells if cell)


def matrix(connections: Iterable[Connection]) -> Matrix:
    """The matrix of these records; records of the same pair add up."""
    counts: dict[tuple[str, str, str], dict[tuple[str, str], tuple[int, int]]] = {}
    for one in connections:
        pairs = counts.setdefault((one.kernel, one.docker, one.backend), {})
        sent, lost = pairs.get((one.source, one.target), (0, 0))
        pairs[one.source, one.target] = (sent + one.sent, lost + one.lost)
    backends = tuple(sorted({backend for _, _, backend in counts}))
    hosts_of = sorted({(kernel, docker) for kernel, docker, _ in counts}, key=lambda one: tuple(map(_natural, one)))
    lossy = [
        Lossy(square=square, backend=backend, docker=docker, kernel=kernel)
        for (kernel, docker, backend), pairs in counts.items()
        for source, target in pairs
        if (square := _square(source, target, pairs)).lost
    ]
    return Matrix(
        backends=backends,
        rows=tuple(
            (kernel, docker, tuple(_cell(counts.get((kernel, docker, backend))) for backend in backends))
            for kernel, docker in hosts_of
        ),
        lossy=tuple(lossy),
    )


def _cell(pairs: dict[tuple[str, str], tuple[int, int]] | None) -> Cell | None:
    if pairs is None:
        return None
    hosts = sorted({name for ends in pairs for name in ends}, key=_natural)
    shown = hosts if len(hosts) <= _HOSTS_SHOWN else []
    return Cell(
        pairs=len(pairs),
        whole=sum(lost == 0 and sent > 0 for sent, lost in pairs.values()),
        rows=tuple(tuple(_square(source, target, pairs) for target in shown) for source in shown),
    )


def _square(source: str, target: str, pairs: dict[tuple[str, str], tuple[int, int]]) -> Square:
    sent, lost = pairs.get((source, target), (0, 0))
    state = "unasked" if not sent else "all" if not lost else "none" if lost >= sent else "some"
    return Square(source=source, target=target, state=state, sent=sent, lost=lost)


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts host2 before host10, and 6.1 before 6.12."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text))
