"""Step: two test containers on every host, one on the overlay and one on the underlay."""

from __future__ import annotations

from tests.testbed.cluster.machine import PROBE, UNDERLAY_PROBE, Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite


def make(site: ClusterSite) -> None:
    """Start the probe containers on every host."""

    def start(machine: Machine) -> None:
        start_one(machine, site.probe_image)

    each(start, site.hosts)


def start_one(machine: Machine, image: str) -> None:
    """Start both containers on one host, from an image that is there. They come back whenever docker does."""
    options = "--detach --restart=always --stop-timeout=1 --init"
    machine.shell(
        f"docker run {options} --name={PROBE} --hostname={machine.name}-{PROBE} {image} sleep infinity &&"
        f" docker run {options} --name={UNDERLAY_PROBE} --network=host {image} sleep infinity"
    )
