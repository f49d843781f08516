"""Run etcdctl as one of the users that etcd-setup made."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from etcd_container import passwords
from etcd_container.problem import Refused

NAME = "etcdctl-as"


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by etcdctl, or return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 2 or words[0].startswith("-"):
        sys.stderr.write(f"usage: {NAME} FOLDER/USER WORD…\n  as in {NAME} /secrets/root endpoint status\n")
        return 2
    folder = Path(words[0]).resolve()
    try:
        password = passwords.read(passwords.file_of(folder.parent, folder.name))
    except Refused as error:
        sys.stderr.write(f"{NAME}: {error.problem.text()}\n")
        return 2
    if password is None:
        sys.stderr.write(f"{NAME}: error: there is no {passwords.file_of(folder.parent, folder.name)}\n")
        return 2
    # By the environment: other users can read a command line, but not the environment.
    variables = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_USER": folder.name, "ETCDCTL_PASSWORD": password}
    variables.pop("ETCDCTL_DEBUG", None)
    authority = folder / "ca.pem"
    if authority.exists() and variables.get("ETCDCTL_ENDPOINTS", "").startswith("https://"):
        variables.setdefault("ETCDCTL_CACERT", str(authority))
    sys.stdout.flush()
    try:
        os.execvpe("etcdctl", ["etcdctl", *words[1:]], variables)
    except OSError as error:
        sys.stderr.write(f"{NAME}: error: etcdctl cannot be started: {error.strerror}\n")
    return 1
