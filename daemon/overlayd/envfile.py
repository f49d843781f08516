"""Files of `KEY=value` lines that others write: subnet.env, /etc/sysconfig/flanneld. Pure.

Our own settings file is stricter (settings.read_file). These are read by shells and by systemd alike, so what both
understand counts, and a line that is no assignment is left aside.
"""

from __future__ import annotations

import re
import shlex

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PLAIN = re.compile(r"[\w@%+:,./=-]*", re.ASCII)


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
