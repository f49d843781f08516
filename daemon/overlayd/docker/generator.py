"""systemd.generator(7): give the installed docker.service the options of the leased subnet, whatever its ExecStart is.

No variable is in the ExecStart of all packages: docker-ce's unit has none, Debian's `$DOCKER_OPTS`, CentOS 7's
`$DOCKER_NETWORK_OPTIONS`. So the drop-in made here repeats the installed unit's own ExecStart with one more variable.
It is made at boot and at every daemon-reload, only while overlayd.service is enabled: removing or disabling overlayd
takes it away again. Generators run before any service does, so this only reads and writes files, and imports little.

Files that systemd accepts must not make this fail, or docker would come up without its subnet: they are read as systemd
reads them (lib/unit_files.py), and a file that cannot be read is skipped alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from overlayd.lib import unit_files

UNIT = "docker.service"
DROP_IN = "docker.service.d/zz-overlayd.conf"
VARIABLE = "$OVERLAYD_DOCKER_OPTIONS"
# The order after overlayd and the file with the variable are in the package's own drop-in, 50-overlayd.conf.
# `zz-` sorts after most drop-ins of people and packages; `_last_later_drop_in` finds those that sort later still.
_TEMPLATE = """\
# Made by overlayd-docker-generator while overlayd.service is enabled.
[Unit]
Wants=overlayd.service

[Service]
# systemd reads environment files again after this (systemd.exec(5)). `-`: docker starts even where it fails.
ExecStartPre=-/usr/bin/overlayd docker prepare --config-file=/dev/null --run-dir=/run/overlayd
ExecStartPre=/bin/sh -c '{refusal}'
ExecStart=
{exec_start}
"""
_REFUSAL = (
    "test -s /run/overlayd/docker.env || "
    '{ echo "overlayd has no subnet for this host yet, so docker is not started; see: overlayd status" >&2; exit 1; }'
)


def main(arguments: Sequence[str]) -> int:
    """Write the drop-in below the first argument (systemd passes three directories); the exit status."""
    if not arguments:
        _print_error("systemd calls this with the directory to write to")
        return 2
    try:
        text = drop_in(Path("/"))
        if text is not None:
            path = Path(arguments[0]) / DROP_IN
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
            last = _last_later_drop_in(Path("/"), path.name)
            if last is not None:
                command = text[text.index("ExecStart=\n") :]
                (path.parent / f"{last}-overlayd.conf").write_bytes(f"[Service]\n{command}".encode())
    except OSError as error:
        _print_error(str(error))
        return 1
    return 0


def drop_in(root: Path) -> str | None:
    """The drop-in for the docker that is installed below `root`; None without one, or where overlayd is not enabled."""
    if not any((root / "etc/systemd/system").glob("*.wants/overlayd.service")):
        return None
    commands = unit_files.exec_start(unit_files.texts(root, UNIT))
    if not commands:
        return None
    lines = "\n".join(f"ExecStart={command} {VARIABLE}" for command in commands)
    return _TEMPLATE.format(refusal=_REFUSAL, exec_start=lines)


def _last_later_drop_in(root: Path, ours: str) -> str | None:
    """The last drop-in that sorts after ours and sets ExecStart, which would undo ours; None without one."""
    found = [
        path.name for path, text in unit_files.read(root, UNIT) if path.name > ours and unit_files.exec_start([text])
    ]
    return found[-1] if found else None


def _print_error(text: str) -> None:
    # ascii(): a file's name in the message may hold a line feed.
    print(f"overlayd-docker-generator: {ascii(text)[1:-1]}", file=sys.stderr)  # noqa: T201
