"""Which commands of the network config this host lets run: programs in one folder, which the host's own settings name.

Whoever may write to etcd writes the network config, and commands are run as root. So etcd chooses among programs that
were put on this host for that, and never brings one of its own: no shell, and no interpreter.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from overlayd.lib.ownership import open_to_others
from overlayd.lib.sanitize import sanitized

SETTING = "extension-commands"
# A folder with one of these is not of programs for this purpose: with them, etcd could have anything run.
_RUN_ANYTHING = ("sh", "bash", "dash", "ash", "env", "busybox", "python3", "perl", "systemd-run", "ip", "nsenter")


@dataclass(frozen=True, kw_only=True)
class Consent:
    """The host's consent. `folder` is None where it gives none."""

    folder: Path | None = None

    def refusal(self, command: str) -> str | None:
        """Why a command is not run here, in words; None where it may be. An empty one is never run.

        Looked at before every run: what is in the folder may have changed.
        """
        if not command:
            return None
        if self.folder is None:
            return f"this host runs no commands that come from etcd ({SETTING} is not set)"
        program = _program(command)
        if program is None or program.parent != self.folder:
            return f"{sanitized(command)} is not a program in {self.folder}, by its whole path"
        return self._of_folder(self.folder) or self._of_program(program)

    def _of_folder(self, folder: Path) -> str | None:
        generic = [name for name in _RUN_ANYTHING if (folder / name).exists()]
        if generic:
            return f"{SETTING} {folder} has {generic[0]}, by which etcd could have anything run"
        return _not_ours(folder)

    def _of_program(self, program: Path) -> str | None:
        if program.resolve().parent != program.parent.resolve():
            return f"{program} leads to a program outside {program.parent}"
        if not program.is_file() or not os.access(program, os.X_OK):
            return f"{program} is not there, or cannot be executed"
        return _not_ours(program)


def _program(command: str) -> Path | None:
    try:
        word = shlex.split(command)[0]
    except (ValueError, IndexError):
        return None
    # A variable in its name would let a lease choose the program.
    if not word.startswith("/") or "$" in word or "\0" in word or os.path.normpath(word) != word:
        return None
    return Path(word)


def _not_ours(path: Path) -> str | None:
    problem = open_to_others(path)
    return None if problem is None else f"{path} is not root's alone: {problem}"
