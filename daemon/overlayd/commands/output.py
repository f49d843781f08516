"""How commands print."""

from __future__ import annotations


def print_fields(title: str, values: dict[str, object]) -> None:
    """Print a title and, indented below it, the values that are there."""
    print_line(title)
    for key, value in values.items():
        if value not in (None, ""):
            shown = str(value).lower() if isinstance(value, bool) else value
            print_line(f"  {key:<11} {shown}" if len(key) < 12 else f"  {key} {shown}")


def print_line(text: str) -> None:
    """Print one line or several. Control characters, which a terminal would obey, are shown as escapes."""
    print("\n".join(map(escaped, text.split("\n"))))  # noqa: T201


def escaped(line: str) -> str:
    """A line with its control characters, line breaks among them, as escapes."""
    return line if line.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
