"""How commands print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def print_fields(title: str, values: dict[str, object]) -> None:
    """A title and, indented below it, what has a value."""
    print_line(title)
    for key, value in values.items():
        if value not in (None, ""):
            shown = str(value).lower() if isinstance(value, bool) else value
            print_line(f"  {key:<11} {shown}" if len(key) < 12 else f"  {key} {shown}")


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The rows, all of one length, with their cells below each other; the last column is as long as it is."""
    table = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def print_line(text: str) -> None:
    """One line on standard output, or several; what a terminal would obey is shown instead."""
    print("".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text))  # noqa: T201


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, the last one as it is."""
    table = [titles, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles) - 1)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print_line("  ".join([*cells, row[-1]]).rstrip())
