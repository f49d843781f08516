"""This host's own lease: acquired, kept in etcd, and remembered across reboots."""

from __future__ import annotations

from overlayd import backends
from overlayd.backends.planned import Keyed
from overlayd.errors import LeaseLost, OverlaydError, StoreError
from overlayd.host.parts import HostContext
from overlayd.leases import previous_lease
from overlayd.leases.conflicts import avoided
from overlayd.leases.held_lease import HeldLease, PreviousLease
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.registry import Registry
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPAddress, IPNetwork
from overlayd.lib.log import logger

log = logger("host")


class OwnLease:
    """The lease of this host under one network config. Called in one thread."""

    def __init__(self, context: HostContext, registry: Registry) -> None:
        """Changes nothing yet."""
        self._context = context
        self._registry = registry
        self._held: HeldLease | None = None

    @property
    def public_ip(self) -> IPAddress:
        """The address that peers know this host by: of the first family that the network uses."""
        return self._family_lease(self._context.config.networks[0]).public_ip

    @property
    def held(self) -> HeldLease:
        """The lease, once acquired."""
        if self._held is None:
            raise RuntimeError("no lease acquired yet")
        return self._held

    def acquire(self) -> HeldLease:
        """Hold subnets, the same as before unless another host has them. Raises StoreError, SubnetsExhausted."""
        previous = previous_lease.recall(self._context.settings.state_dir, self._context.settings.subnet_env)
        previous = self._registry.checked_previous(previous, self.public_ip)
        if isinstance(self._context.backend, Keyed):
            self._context.backend.part_from(self._registry.older_leases_of_others(previous, self.public_ip))
        self._held = self._registry.acquire(
            self._context.config,
            self._lease,
            public_ip=self.public_ip,
            previous=previous,
            ttl_s=self._context.settings.lease_ttl_s,
            avoid=avoided(self._context.here.needed, self._context.underlay.ifname, held=previous.subnets),
        )
        self._remember(self._held)
        log.info("lease held", subnet=self._held.lease.subnets, reserved=self._held.reserved)
        return self._held

    def reclaim(self, *, gone: bool) -> HeldLease:
        """Write the lease again where etcd lost it. Raises LeaseLost. While etcd is away, what is held stays held.

        `gone`: the etcd lease that it was attached to has ended.
        """
        held = self.held
        if not self._registry.view.connected:
            return held
        if gone:
            held = HeldLease(lease=held.lease, etcd_lease_id=-1)
        try:
            self._held = self._registry.reclaim(held, ttl_s=self._context.settings.lease_ttl_s)
        except LeaseLost:
            # The etcd lease that the key is attached to now is another host's, and must not be taken back.
            self._remember(HeldLease(lease=held.lease, etcd_lease_id=0))
            raise
        except StoreError as error:
            # etcd went away at this very moment, which is no reason to close a data path.
            log.debug("cannot check the lease", subnet=held.lease.subnets, problem=error.message)
            return self.held
        if self._held is not held:
            self._remember(self._held)
        return self._held

    def _lease(self, subnets: Subnets) -> Lease:
        """The lease that is published for these subnets."""
        return Lease(
            v4=self._family_lease(subnets.v4) if subnets.v4 else None,
            v6=self._family_lease(subnets.v6) if subnets.v6 else None,
            backend_type=backends.published_type(self._context.config.backend_type),
        )

    def _family_lease(self, subnet: IPNetwork) -> FamilyLease:
        endpoint = self._context.underlay.endpoint(subnet.version)
        if endpoint is None:
            raise RuntimeError(f"IPv{subnet.version} is not in use")
        return FamilyLease(
            subnet=subnet, public_ip=endpoint.public_ip, data=self._context.backend.lease_data(subnet.version)
        )

    def _remember(self, held: HeldLease) -> None:
        """Write down what is held, so that this host gets the same subnets after a reboot."""
        previous = PreviousLease(subnets=held.lease.subnets, etcd_lease_id=max(held.etcd_lease_id, 0))
        try:
            previous_lease.remember(self._context.settings.state_dir, previous)
        except OverlaydError as error:
            log.warning(error.message)
