"""This host's own lease: the one it holds, the one it held in its last run, and which of all it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from overlayd.leases.lease import Lease
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress
from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class HeldLease:
    """This host's lease, and the etcd lease with which its key ends; 0 for a reservation, which never ends."""

    lease: Lease
    etcd_lease_id: int

    @property
    def reserved(self) -> bool:
        """Whether an administrator keeps this subnet for this host."""
        return self.etcd_lease_id == 0


@dataclass(frozen=True, kw_only=True)
class PreviousLease:
    """What this host held when it last ran. An etcd lease's id is random: who has it on record is its owner."""

    subnets: Subnets = field(default_factory=Subnets)
    etcd_lease_id: int = 0


def owned(
    lease_ids: Mapping[str, int], leases: Mapping[str, Lease], public_ip: IPAddress, previous: PreviousLease
) -> tuple[str, Lease] | None:
    """The name and the lease that are this host's, by its address or by its etcd lease. Never a reservation."""
    for name, lease in sorted(leases.items()):
        lease_id = lease_ids[name]
        if lease_id and (lease.public_ip == public_ip or lease_id == previous.etcd_lease_id):
            return name, lease
    return None
