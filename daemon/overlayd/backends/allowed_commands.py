"""Which commands of the network config this host lets run: programs in one folder, which the host's own settings name.

Whoever may write to etcd writes the network config, and its commands are run as root. So the network config only
chooses among programs that this host's administrator put into the folder; a shell or an interpreter may not be there.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from overlayd.lib.ownership import open_to_others
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import sanitized

SETTING = "extension-commands"
# With one of these in the folder, whoever may write to etcd could run anything as root.
_RUN_ANYTHING = ("sh", "bash", "dash", "ash", "env", "busybox", "python3", "perl", "systemd-run", "ip", "nsenter")


@dataclass(frozen=True, kw_only=True)
class AllowedCommands:
    """The programs that this host lets run: those in `folder`; None: it runs none."""

    folder: Path | None = None

    def refusal(self, command: str) -> str | None:
        """Why a command is not run on this host; None where it may be, and for an empty command.

        Asked before every run, as what is in the folder may have changed.
        """
        if not command:
            return None
        if self.folder is None:
            return f"this host runs no commands that come from etcd ({SETTING} is not set)"
        program = _program(command)
        if program is None or program.parent != self.folder:
            return f"{sanitized(command)} is not a program in {self.folder}, given by its absolute path"
        return self._of_folder(self.folder) or self._of_program(program)

    def _of_folder(self, folder: Path) -> str | None:
        generic = [name for name in _RUN_ANYTHING if (folder / name).exists()]
        if generic:
            return (
                f"{SETTING} {folder} has {generic[0]}, with which whoever may write to etcd could run anything as root"
            )
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
    # A variable in the name would let whoever writes a lease choose the program.
    if not word.startswith("/") or "$" in word or "\0" in word or os.path.normpath(word) != word:
        return None
    return Path(word)


def _not_ours(path: Path) -> str | None:
    problem = open_to_others(path)
    return None if problem is None else f"{path} is not root's alone: {problem}"
