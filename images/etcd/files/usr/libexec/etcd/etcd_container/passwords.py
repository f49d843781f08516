"""Passwords in files of root's: each is on disk before etcd is told of it, so that none is ever known to nobody.

No message holds any of their content.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from etcd_container.problem import Problem, Refused

FILE = "etcd-password"
_BYTES = 32
# What bcrypt looks at; etcd would take a longer one, and not look at the rest.
_MOST_BYTES = 72
_READ_BYTES = 1000


def file_of(folder: Path, user: str) -> Path:
    """Where a user's password is."""
    return folder / user / FILE


def read(path: Path) -> str | None:
    """The password in a file, None where there is no file. Others may not read it afterwards. Raises Refused.

    A link is refused: somebody else may have put it there, and it leads to a file that is none of ours.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                os.fchmod(file.fileno(), 0o600)
            password = file.read(_READ_BYTES).decode().strip("\r\n")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise Refused(Problem(f"{path} is no text", "write the password there, on one line")) from None
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror}"
        raise Refused(Problem(what, f"run as root, or as the owner of {path}")) from error
    # etcdctl reads it up to the first blank.
    if not password or password.split() != [password] or len(password.encode()) > _MOST_BYTES:
        what = f"{path} is no password: 1 to {_MOST_BYTES} bytes without blanks are one"
        raise Refused(Problem(what, f"write the password there, or remove {path} where etcd does not know it yet"))
    return password


def make(path: Path) -> str:
    """A new password, in a file that only its owner reads, and safe there when this returns. Raises OSError."""
    password = secrets.token_urlsafe(_BYTES)
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700)
    write(path, f"{password}\n".encode(), mode=0o600)
    return password


def write(path: Path, content: bytes, *, mode: int) -> None:
    """Put a file in its place when it is whole and on disk. Raises OSError."""
    half = path.with_name(f".{path.name}.half")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
