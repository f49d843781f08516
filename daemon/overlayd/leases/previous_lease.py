"""The record of this host's last lease on disk, by which it gets the same subnets again after a reboot."""

from __future__ import annotations

import contextlib
import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from overlayd.leases.held_lease import PreviousLease
from overlayd.leases.subnets import Subnets
from overlayd.lib.files import read_json, write_atomically

LEASE_FILE = "lease.json"


def recall(state_dir: Path, subnet_env: Path) -> PreviousLease:
    """The previous lease: of the record, which outlives a reboot, else of this boot's subnet.env, else none.

    Never raises: a record that cannot be read counts as none.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        found: dict[str, Any] = read_json(state_dir / LEASE_FILE)
        v4, v6 = found.get("subnet"), found.get("subnet6")
        subnets = Subnets(v4=IPv4Network(v4) if v4 else None, v6=IPv6Network(v6) if v6 else None)
        return PreviousLease(subnets=subnets, etcd_lease_id=int(found.get("etcd_lease_id") or 0))
    with contextlib.suppress(OSError, ValueError):
        variables = dict(line.partition("=")[::2] for line in subnet_env.read_text().splitlines())
        return PreviousLease(subnets=Subnets.of_subnet_env(variables))
    return PreviousLease()


def remember(state_dir: Path, previous: PreviousLease) -> None:
    """Write the record, in one step. Raises OverlaydError when the disk refuses."""
    subnets = previous.subnets
    record = {
        "subnet": str(subnets.v4) if subnets.v4 else None,
        "subnet6": str(subnets.v6) if subnets.v6 else None,
        "etcd_lease_id": previous.etcd_lease_id,
    }
    try:
        write_atomically(state_dir / LEASE_FILE, f"{json.dumps(record)}\n", mode=0o600)
    except OSError as error:
        raise OverlaydError(f"cannot record {subnets} for the next boot: {error}") from error
