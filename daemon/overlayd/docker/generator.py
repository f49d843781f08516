"""systemd.generator(7): give the installed docker.service the options of the leased subnet, whatever its ExecStart is.

docker-ce's unit expands no variable, Debian's `$DOCKER_OPTS`, CentOS 7's `$DOCKER_NETWORK_OPTIONS`: not to guess,
the drop-in made here repeats the installed unit's own ExecStart with one more variable. It is made at boot and at every
daemon-reload, only while overlayd.service is enabled, so removing or disabling overlayd takes it away again. Generators
run before anything else does: this reads and writes files, and nothing more.

What systemd takes must not break it: docker would come up without its subnet. So lines end where systemd ends them,
those that it ignores for not being UTF-8 are left out, and a file that cannot be read is passed over alone.
"""

from __future__ import annotations

import re
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
# `zz-`: after most drop-ins that a person or another package may have put there; `_own_behind` has the others.
_TEMPLATE = """\
# Made by overlayd-docker-generator while overlayd.service is enabled.
[Unit]
Wants=overlayd.service

[Service]
# Environment files are read anew after this (systemd.exec(5)). Its failure keeps no docker down.
ExecStartPre=-/usr/bin/overlayd docker prepare --config-file=/dev/null --run-dir=/run/overlayd
ExecStartPre=/bin/sh -c '{refusal}'
ExecStart=
{exec_start}
"""


_REFUSAL = (
    "test -s /run/overlayd/docker.env || "
    '{ echo "overlayd has no subnet for this host yet, so docker is not started; see: overlayd status" >&2; exit 1; }'
)
# systemd's read_line() and WHITESPACE; Python's own lines and blanks are more.
_LINE_ENDS = re.compile(r"[\n\r\0]")
_BLANKS = " \t\n\r"


def main(arguments: Sequence[str]) -> int:
    """Write the drop-in below the first argument (systemd passes three directories); the exit status."""
    if not arguments:
        _say("systemd calls this with the directory to write to")
        return 2
    try:
        text = drop_in(Path("/"))
        if text is not None:
            path = Path(arguments[0]) / DROP_IN
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
            last = _own_behind(Path("/"), path.name)
            if last is not None:
                command = text[text.index("ExecStart=\n") :]
                (path.parent / f"{last}-overlayd.conf").write_bytes(f"[Service]\n{command}".encode())
    except OSError as error:
        _say(str(error))
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


def _own_behind(root: Path, ours: str) -> str | None:
    """The last drop-in of somebody's own that comes after ours and gives docker its command; None without one."""
    found = [path.name for path, text in files(root, "docker.service") if path.name > ours and exec_start([text])]
    return found[-1] if found else None


def exec_start(texts: Iterable[str]) -> list[str]:
    """The commands that a unit and its drop-ins, in their order, add up to. An empty one clears the list."""
    commands: list[str] = []
    for text in texts:
        for section, key, value in assignments(text):
            if section == "Service" and key == "ExecStart":
                commands = [*commands, value] if value else []
    return commands


def assignments(text: str) -> Iterable[tuple[str, str, str]]:
    """Section, key and value of each assignment in a unit or a drop-in that systemd takes, in their order."""
    section, pending = "", ""
    # The empty line ends a value that goes on at the end of the text.
    for line in [*_LINE_ENDS.split(text.removeprefix("\ufeff")), ""]:
        stripped = line.lstrip(_BLANKS)
        if stripped.startswith(("#", ";")):
            # A comment inside a continued value is skipped, and the value goes on (systemd.syntax(7)).
            continue
        joined = f"{pending} {stripped}" if pending else stripped
        if (len(joined) - len(joined.rstrip("\\"))) % 2:
            # Of two backslashes the first takes the second's meaning; a blank behind one, the end of the line's.
            pending = joined[:-1].rstrip(_BLANKS)
            continue
        pending, joined = "", joined.rstrip(_BLANKS)
        if not _is_utf8(joined):
            # systemd ignores it, wherever it stands; repeated, it would leave docker without a command.
            continue
        if joined.startswith("[") and joined.endswith("]"):
            section = joined[1:-1]
        elif "=" in joined:
            key, _, value = joined.partition("=")
            yield section, key.strip(_BLANKS), value.strip(_BLANKS)


def sources(root: Path, name: str) -> Iterable[str]:
    """The texts of a unit and its drop-ins, as `files` gives them."""
    return (text for _path, text in files(root, name))


def files(root: Path, name: str) -> Iterable[tuple[Path, str]]:
    """A unit and its drop-ins with their texts, in the order in which they count; none if it is not installed.

    Bytes that are no UTF-8 are surrogates in the text (PEP 383). What cannot be read is named on standard error.
    """
    dirs = [root / place for place in UNIT_DIRS]
    found = next(((path, text) for place in dirs if (text := _read(path := place / name)) is not None), None)
    if found is None:
        return
    yield found
    # Drop-ins apply in the order of their names; of two with one name, the directory of the higher priority counts.
    named: dict[str, Path] = {}
    for place in reversed(dirs):
        for path in _drop_ins(place / f"{name}.d"):
            named[path.name] = path
    for _name, path in sorted(named.items()):
        # A link to /dev/null masks a drop-in of a lower priority.
        text = _read(path)
        if text is not None:
            yield path, text


def _drop_ins(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.endswith(".conf")]
    except OSError:
        # Mostly it is not there.
        return []


def _read(path: Path) -> str | None:
    """A regular file's text; None of anything else."""
    try:
        return path.read_bytes().decode(errors="surrogateescape") if path.is_file() else None
    except OSError as error:
        _say(f"passed over: {error}")
        return None


def _is_utf8(line: str) -> bool:
    """Whether systemd takes the line (utf8_is_valid() in its basic/utf8.c): UTF-8 without noncharacters."""
    return not any(
        0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE for code in map(ord, line)
    )


def _say(text: str) -> None:
    print(f"overlayd-docker-generator: {ascii(text)[1:-1]}", file=sys.stderr)  # noqa: T201
