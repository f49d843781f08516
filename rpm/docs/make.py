"""Write manual pages and completion as they are installed. Runs in the freezer image: shtab, and what the daemon needs.

    make.py OUT      OUT: usr/share/man/…, usr/share/bash-completion/… and so on

It is called as a module, `python -m rpm.docs.make`, with the daemon's folder in PYTHONPATH. SOURCE_DATE_EPOCH is the
time on the pages. The same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from rpm.docs import completion, overlayd_8, overlayd_conf_5

PAGES = {"man8/overlayd.8": overlayd_8.page, "man5/overlayd.conf.5": overlayd_conf_5.page}


def pages(epoch: int) -> dict[str, str]:
    """The manual pages' sources, by their place below /usr/share/man."""
    date = datetime.fromtimestamp(epoch, tz=UTC).strftime("%Y-%m-%d")
    return {place: page(date) for place, page in PAGES.items()}


def files(epoch: int) -> dict[str, bytes]:
    """All that is installed, by its place below /."""
    found = {
        # No time, no name of a file: what gzip adds to them otherwise.
        f"usr/share/man/{place}.gz": gzip.compress(text.encode(), mtime=0)
        for place, text in pages(epoch).items()
    }
    for shell, place in completion.PLACES.items():
        found[f"usr/share/{place}"] = completion.complete(shell).encode()
    return found


def main(arguments: list[str]) -> int:
    """Write everything below the one argument; the exit status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    for place, content in files(int(os.environ.get("SOURCE_DATE_EPOCH", "0"))).items():
        path = Path(arguments[0]) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
