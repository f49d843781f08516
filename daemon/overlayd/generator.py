"""systemd.generator(7): give the installed docker.service the options of the leased subnet, whatever its ExecStart is.

docker-ce's unit expands no variable, Debian's `$DOCKER_OPTS`, CentOS 7's `$DOCKER_NETWORK_OPTIONS`: not to guess,
the drop-in made here repeats the installed unit's own ExecStart with one more variable. It is made at boot and at every
daemon-reload, only while overlayd.service is enabled, so removing or disabling overlayd takes it away again. Generators
run before anything else does: this reads and writes files, and nothing more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# systemd.unit(5), from the highest priority to the lowest; generator directories hold no unit of a package.
UNIT_DIRS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
DROP_IN = "docker.service.d/zz-overlayd.conf"
VARIABLE = "$OVERLAYD_DOCKER_OPTIONS"
# The order after overlayd and the file with the variable are in the package's own drop-in, 50-overlayd.conf.
# `zz-`: after every drop-in that a person or another package may have put there.
_TEMPLATE = """\
# Made by overlayd-docker-generator while overlayd.service is enabled.
[Unit]
Wants=overlayd.service

[Service]
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
        print("overlayd-docker-generator: systemd calls this with the directory to write to", file=sys.stderr)  # noqa: T201
        return 2
    try:
        text = drop_in(Path("/"))
        if text is not None:
            path = Path(arguments[0]) / DROP_IN
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        print(f"overlayd-docker-generator: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def drop_in(root: Path) -> str | None:
    """The drop-in for the docker that is installed below `root`; None without one, or where overlayd is not enabled."""
    if not any((root / "etc/systemd/system").glob("*.wants/overlayd.service")):
        return None
    commands = exec_start(sources(root, "docker.service"))
    if not commands:
        return None
    lines = "\n".join(f"ExecStart={command} {VARIABLE}" for command in commands)
    return _TEMPLATE.format(refusal=_REFUSAL, exec_start=lines)


def exec_start(files: Iterable[str]) -> list[str]:
    """The commands that a unit and its drop-ins, in their order, add up to. An empty one clears the list."""
    commands: list[str] = []
    for text in files:
        for section, key, value in assignments(text):
            if section == "Service" and key == "ExecStart":
                commands = [*commands, value] if value else []
    return commands


def assignments(text: str) -> Iterable[tuple[str, str, str]]:
    """Section, key and value of each assignment in a unit or a drop-in, in their order."""
    section, pending = "", ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("#", ";")):
            # A comment inside a continued value is skipped, and the value goes on (systemd.syntax(7)).
            continue
        joined = f"{pending} {stripped}" if pending else stripped
        if joined.endswith("\\"):
            pending = joined[:-1].rstrip()
            continue
        pending = ""
        if joined.startswith("[") and joined.endswith("]"):
            section = joined[1:-1]
        elif "=" in joined:
            key, _, value = joined.partition("=")
            yield section, key.strip(), value.strip()


def sources(root: Path, name: str) -> Iterable[str]:
    """The texts of a unit and its drop-ins, in the order in which they count; none if it is not installed."""
    dirs = [root / place for place in UNIT_DIRS]
    unit = next((found for place in dirs if (found := place / name).is_file()), None)
    if unit is None:
        return
    yield unit.read_text()
    # Drop-ins apply in the order of their names; of two with one name, the directory of the higher priority counts.
    named: dict[str, Path] = {}
    for place in reversed(dirs):
        for found in place.glob(f"{name}.d/*.conf"):
            named[found.name] = found
    for _name, found in sorted(named.items()):
        # A link to /dev/null masks a drop-in of a lower priority.
        if found.is_file():
            yield found.read_text()
