"""Files of `KEY=value` lines that others write: subnet.env, /etc/sysconfig/flanneld. Pure.

Our own settings file is systemd's (`read`, for settings.read_file). The others are read by shells and by systemd alike,
so what either understands counts, and a line that is no assignment is left aside (`parse`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

_ASSIGNMENT = re.compile(r"\ufeff?(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_PLAIN = re.compile(r"[\w@%+:,./=-]*", re.ASCII)


_BLANKS, _BREAKS, _BREAK = " \t", "\n\r", re.compile(r"[\n\r]")


class BadLine(ValueError):
    """A line that a file for EnvironmentFile= should not have; the text says which and why."""


def read(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, key and value of every assignment, as systemd reads EnvironmentFile= (systemd.exec(5), its env-file.c).

    Raises BadLine where systemd would drop a line without a word, or its versions differ. Never shows a line: it may be
    a part of a password.
    """
    at = 0
    while at < len(text):
        if text[at] in _BLANKS + _BREAKS:
            at += 1
            continue
        line, end = text.count("\n", 0, at) + 1, _end(text, at)
        if text[at] in "#;":
            after = text[end + 1 : _end(text, end + 1)].strip()
            if text[at:end].endswith("\\") and after and after[0] not in "#;":
                raise BadLine(
                    f"line {line} is a comment that ends in a backslash: older systemd takes the next with it"
                )
            at = end
            continue
        key, equals, _value = text[at:end].partition("=")
        if not equals:
            raise BadLine(f"line {line} is not KEY=value")
        value, at = _value_at(text, at + len(key) + 1, line)
        yield line, key.rstrip(_BLANKS), value


def _end(text: str, at: int) -> int:
    """Where the line ends that begins there."""
    found = _BREAK.search(text, at)
    return found.start() if found else len(text)


def _value_at(text: str, at: int, line: int) -> tuple[str, int]:
    """The value that begins there, and where its line ends. Blanks at its end count if they are quoted or escaped."""
    found, kept, bare = "", 0, False
    while at < len(text) and text[at] not in _BREAKS:
        char = text[at]
        if char == "\\":
            # Whatever it is; a line's end vanishes.
            found += text[at + 1 : at + 2].strip(_BREAKS)
            kept, bare, at = len(found), True, at + 2
        elif char in "'\"" and not bare:
            inside, at = _quoted_at(text, at, line)
            found += inside
            kept = len(found)
        elif char in _BLANKS and not bare:
            at += 1
        else:
            found, bare, at = found + char, True, at + 1
            kept = kept if char in _BLANKS else len(found)
    return found[:kept], at


def _quoted_at(text: str, at: int, line: int) -> tuple[str, int]:
    """What stands between the quote there and the next, and where it goes on."""
    quote, found, at = text[at], "", at + 1
    while at < len(text) and text[at] != quote:
        step = 1
        if quote == '"' and text[at] == "\\":
            after = text[at + 1 : at + 2]
            found += after if after in '"\\`$' else "" if after in _BREAKS else f"\\{after}"
            step = 2
        else:
            found += text[at]
        at += step
    if at >= len(text):
        raise BadLine(f"line {line}: a quote is not closed")
    return found, at + 1


def parse(text: str) -> dict[str, str]:
    """The variables, quotes taken off; of two with one name the later counts. A backslash continues a line."""
    found = {}
    for line in text.replace("\\\n", "").splitlines():
        match = _ASSIGNMENT.fullmatch(line.strip())
        if match is None:
            continue
        key, value = match.groups()
        try:
            found[key] = " ".join(shlex.split(value))
        except ValueError:
            # A quote that is never closed: what a person meant is not for us to guess.
            found[key] = value
    return found


def assignment(key: str, value: str) -> str:
    """A line that systemd's EnvironmentFile=, settings.read_file and a shell read back as `value`, without its end.

    A value with both an apostrophe and a dollar sign is none for a shell, which would expand it.
    """
    if _PLAIN.fullmatch(value):
        return f"{key}={value}"
    if "'" not in value:
        return f"{key}='{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'
