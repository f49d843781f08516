"""Files that are whole or not there: each is written under another name and renamed when it is complete.

A build that is killed leaves the older file, or none; what it was writing is named `.NAME.half`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(final: Path) -> Iterator[Path]:
    """The path to write a file to, which is renamed to `final` at the end of the block.

    When the block raises, `final` stays as it was and the unfinished file is removed.
    """
    half = final.with_name(f".{final.name}.half")
    try:
        yield half
        half.rename(final)
    finally:
        half.unlink(missing_ok=True)


def write(final: Path, content: str | bytes) -> None:
    """Write a file in one step; its folder is made where it is missing. Raises OSError."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(final) as half:
        half.write_bytes(content.encode() if isinstance(content, str) else content)
