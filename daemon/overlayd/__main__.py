"""The program: one command line, and under other names systemd's generator and the service that enters containers."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run the command line, or what it is called as; the exit status."""
    if Path(sys.argv[0]).name == "overlayd-docker-generator":
        # Runs at every daemon-reload: nothing else is imported.
        from overlayd.docker import generator  # noqa: PLC0415

        return generator.main(sys.argv[1:])
    if Path(sys.argv[0]).name == "overlayd-containers":
        # It has rights that the daemon has not, and so no more code than it needs.
        from overlayd.probe import socket_server  # noqa: PLC0415

        return socket_server.main()
    from overlayd import cli  # noqa: PLC0415

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
