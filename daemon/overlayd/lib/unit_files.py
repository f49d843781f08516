"""Unit files and their drop-ins, found and read as systemd does (systemd.unit(5), systemd.syntax(7)).

Lines end where systemd ends them, and lines that systemd ignores for not being UTF-8 are left out. The generator of
docker's drop-in runs at boot and imports this module, so nothing but the standard library is imported here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

# systemd.unit(5), from the highest priority to the lowest; generator directories hold no unit of a package.
UNIT_DIRS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
# read_line() and WHITESPACE of systemd. Python's splitlines() and strip() know more line ends and blanks.
_LINE_ENDS = re.compile(r"[\n\r\0]")
_BLANKS = " \t\n\r"


def exec_start(texts: Iterable[str]) -> list[str]:
    """The commands that result from a unit and its drop-ins, in their order. An empty `ExecStart=` clears the list."""
    commands: list[str] = []
    for text in texts:
        for section, key, value in assignments(text):
            if section == "Service" and key == "ExecStart":
                commands = [*commands, value] if value else []
    return commands


def assignments(text: str) -> Iterable[tuple[str, str, str]]:
    """Section, key and value of each assignment in a unit or a drop-in that systemd takes, in their order."""
    section, pending = "", ""
    # The empty line ends a value that the last line continues with a backslash.
    for line in [*_LINE_ENDS.split(text.removeprefix("\ufeff")), ""]:
        stripped = line.lstrip(_BLANKS)
        if stripped.startswith(("#", ";")):
            # A comment inside a continued value is skipped, and the value goes on (systemd.syntax(7)).
            continue
        joined = f"{pending} {stripped}" if pending else stripped
        if (len(joined) - len(joined.rstrip("\\"))) % 2:
            # An odd number of backslashes continues the line: in an even number each second one is escaped. A backslash
            # before a blank is an escaped blank, so the line ends there.
            pending = joined[:-1].rstrip(_BLANKS)
            continue
        pending, joined = "", joined.rstrip(_BLANKS)
        if not _is_utf8(joined):
            # systemd ignores such a line. Repeated in our drop-in it would leave docker without a command.
            continue
        if joined.startswith("[") and joined.endswith("]"):
            section = joined[1:-1]
        elif "=" in joined:
            key, _, value = joined.partition("=")
            yield section, key.strip(_BLANKS), value.strip(_BLANKS)


def texts(root: Path, name: str) -> Iterable[str]:
    """The texts of a unit and its drop-ins, in the order in which they apply."""
    return (text for _path, text in read(root, name))


def consulted(root: Path, name: str) -> list[Path]:
    """The paths on which it depends what `read` gives: files that may be there, folders of drop-ins, and these."""
    dirs = [root / place for place in UNIT_DIRS]
    folders = [place / f"{name}.d" for place in dirs]
    return [*(place / name for place in dirs), *folders, *(path for place in folders for path in _drop_ins(place))]


def read(root: Path, name: str) -> Iterable[tuple[Path, str]]:
    """A unit and its drop-ins with their texts, in the order in which they apply; none if it is not installed.

    Bytes that are not UTF-8 are surrogates in the text (PEP 383). A file that cannot be read is named on standard error
    and skipped.
    """
    dirs = [root / place for place in UNIT_DIRS]
    found = next(((path, text) for place in dirs if (text := _text(path := place / name)) is not None), None)
    if found is None:
        return
    yield found
    # Drop-ins apply in the order of their names. Of two with the same name, the one in the higher directory applies.
    named: dict[str, Path] = {}
    for place in reversed(dirs):
        for path in _drop_ins(place / f"{name}.d"):
            named[path.name] = path
    for _name, path in sorted(named.items()):
        # A link to /dev/null masks a drop-in of a lower priority.
        text = _text(path)
        if text is not None:
            yield path, text


def _drop_ins(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.endswith(".conf")]
    except OSError:
        # Most units have no such directory.
        return []


def _text(path: Path) -> str | None:
    """The text of a regular file; None for anything else."""
    try:
        return path.read_bytes().decode(errors="surrogateescape") if path.is_file() else None
    except OSError as error:
        # ascii(): a file's name in the message may hold a line feed.
        print(f"{Path(sys.argv[0]).name}: skipped: {ascii(str(error))[1:-1]}", file=sys.stderr)  # noqa: T201
        return None


def _is_utf8(line: str) -> bool:
    """Whether systemd accepts the line: UTF-8 without noncharacters (utf8_is_valid() in basic/utf8.c of systemd)."""
    return not any(
        0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE for code in map(ord, line)
    )
