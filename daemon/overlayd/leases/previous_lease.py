"""What this host remembers of its lease across reboots, so that it gets the same subnets again."""

from __future__ import annotations

import contextlib
import json
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

from overlayd.errors import OverlaydError
from overlayd.leases.held_lease import PreviousLease
from overlayd.leases.subnets import Subnets
from overlayd.lib.files import read_json, write_atomically

LEASE_FILE = "lease.json"


def recall(state_dir: Path, subnet_env: Path) -> PreviousLease:
    """What was held last: our own record, which outlives a reboot, else the subnet.env of this boot, else nothing.

    Never raises: a record that is no good is none.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        found: dict[str, Any] = read_json(state_dir / LEASE_FILE)
        v4, v6 = found.get("subnet"), found.get("subnet6")
        subnets = Subnets(v4=IPv4Network(v4) if v4 else None, v6=IPv6Network(v6) if v6 else None)
        return PreviousLease(subnets=subnets, etcd_lease_id=int(found.get("etcd_lease_id") or 0))
    with contextlib.suppress(OSError, ValueError):
        variables = dict(line.partition("=")[::2] for line in subnet_env.read_text().splitlines())
        v4, v6 = variables.get("FLANNEL_SUBNET"), variables.get("FLANNEL_IPV6_SUBNET")
        return PreviousLease(
            subnets=Subnets(
                v4=IPv4Interface(v4).network if v4 else None,
                v6=IPv6Interface(v6).network if v6 else None,
            )
        )
    return PreviousLease()


def remember(state_dir: Path, held: PreviousLease) -> None:
    """Write the record, in one step. Raises OverlaydError when the disk refuses."""
    subnets = held.subnets
    record = {
        "subnet": str(subnets.v4) if subnets.v4 else None,
        "subnet6": str(subnets.v6) if subnets.v6 else None,
        "etcd_lease_id": held.etcd_lease_id,
    }
    try:
        write_atomically(state_dir / LEASE_FILE, f"{json.dumps(record)}\n", mode=0o600)
    except OSError as error:
        raise OverlaydError(f"cannot remember {subnets} for the next boot: {error}") from error
