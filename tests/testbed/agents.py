"""Which gpg agents run: nobody's may be left behind."""

from __future__ import annotations

from pathlib import Path


def agents(home: Path | None) -> list[str]:
    """The command lines of the gpg agents that work for a GnuPG home."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].endswith("gpg-agent") and str(home) in words:
            found.append(" ".join(words))
    return found
