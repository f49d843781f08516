"""Who besides root can change what a path names, and so choose what root writes, reads or runs there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from overlayd.errors import ConfigError, OverlaydError

_LINKS_AT_MOST = 40


def open_to_others(path: Path) -> str | None:
    """Why somebody besides root and us can change what `path` names, as a message; None where nobody can.

    Each folder and each link on the path counts: who may write to a folder can replace what is in it. In a sticky
    folder (/tmp) others cannot replace what is there already, so a path may lead through one, but not end there. What
    does not exist yet belongs to nobody.
    """
    left = list((Path.cwd() / path).parts[1:])
    here, links = Path("/"), 0
    while True:
        try:
            found = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return f"{here} cannot be looked at: {error.strerror}"
        if found.st_uid not in (0, os.geteuid()):
            return f"{here} belongs to user {found.st_uid}"
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _LINKS_AT_MOST:
                return f"{here} is a link to a link, and so on"
            here, left = Path("/"), [*(here.parent / here.readlink()).parts[1:], *left]
            continue
        if _written_by_others(found) and not (left and found.st_mode & stat.S_ISVTX):
            return f"others than root may write to {here} (mode {stat.S_IMODE(found.st_mode):04o})"
        if not left:
            return None
        word = left.pop(0)
        # The path up to here has no links left, so its parent is the one that the kernel takes too.
        here = here.parent if word == ".." else here / word


def require_ours(path: Path, what: str) -> None:
    """Raise ConfigError where somebody besides root may change what `path` names. `what` is the setting's name."""
    problem = open_to_others(path)
    if problem is not None:
        raise ConfigError(
            f"{what} {path} is not root's alone: {problem}",
            hint=f"choose a place that only root may write to, or close this one: ls -ld {path}",
        )


def require_folder(path: Path, what: str, *, mode: int = 0o755) -> None:
    """Make a folder where there is none, and raise ConfigError where it is not ours alone or cannot be made."""
    # First: nothing is made in a folder that others may write to.
    require_ours(path, what)
    try:
        for missing in reversed([one for one in (path, *path.parents) if not one.exists()]):
            require_ours(missing.parent, what)
            missing.mkdir(exist_ok=True)
            # Whatever the umask is.
            missing.chmod(mode if missing == path else 0o755)
    except OSError as error:
        # A full disk may have room later.
        kind = OverlaydError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigError
        raise kind(f"{what} {path} cannot be written: {error.strerror}") from error
    require_ours(path, what)


def _written_by_others(found: os.stat_result) -> bool:
    # The group root is as good as root.
    return bool(found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != 0))
