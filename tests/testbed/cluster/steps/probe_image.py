"""Step: the image of the test containers, from a file that the host image holds: nothing can be pulled."""

from __future__ import annotations

from overlayd.errors import OverlaydError
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.site import ClusterSite

_FILE = "/usr/share/overlayd/probe.tar"


def make(site: ClusterSite) -> None:
    """Load the probe image on every host."""
    site.probe_image = each(load, site.hosts)[0]


def load(machine: Machine) -> str:
    """Load the probe image on one host; the name that it has there."""
    output = machine.run("docker", "load", "--input", _FILE)
    marker, _, name = output.strip().rpartition("Loaded image: ")
    if not name or (marker and not marker.endswith("\n")):
        raise OverlaydError(f"{_FILE} on {machine.name} holds no named image; docker load said: {output.strip()}")
    return name
