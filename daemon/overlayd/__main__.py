"""The program: one command line, and under another name systemd's generator."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run the command line, or the generator when called by its name; the exit status."""
    if Path(sys.argv[0]).name == "overlayd-docker-generator":
        # Runs at every daemon-reload: nothing else is imported.
        from overlayd import generator  # noqa: PLC0415

        return generator.main(sys.argv[1:])
    from overlayd import cli  # noqa: PLC0415

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
