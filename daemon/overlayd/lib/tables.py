"""Tables of text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The rows as lines with their cells below each other, two spaces between columns.

    A row may end before the last column. Its last cell stays as long as it is and widens no column.
    """
    table = [tuple(row) for row in rows]
    widths: dict[int, int] = {}
    for row in table:
        for column, cell in enumerate(row[:-1]):
            widths[column] = max(widths.get(column, 0), len(cell))
    for row in table:
        *cells, last = row
        yield "  ".join([*(cell.ljust(widths[column]) for column, cell in enumerate(cells)), last]).rstrip()
