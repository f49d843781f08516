"""Fixtures: clusters of virtual machines, and what they looked like when a test failed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from tests.machines.making import MakesMachines
from tests.sharing import alone_in
from tests.testbed.cluster import additions, docker_engine
from tests.testbed.cluster.collect import collect
from tests.testbed.cluster.create import ROOT, standing
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.steps import virtual_hosts
from tests.testbed.cluster.virtual_machine import VirtualMachine

NAME = "vm"
UNDERLAY = IPv4Network("198.18.40.0/24")
# By suite of Debian, whose additions the disks have: base, kernel, underlay.
OWNED = {
    "bookworm": ("debian12-rpm", "6.1", IPv4Network("198.18.54.0/24")),
    "trixie": ("debian13-rpm", "6.12", IPv4Network("198.18.55.0/24")),
    "testing": ("debian-testing-rpm", "6.12", IPv4Network("198.18.56.0/24")),
}
# Emulated machines of a busy computer; each wait inside has a limit of its own, and tells more.
_TEST_S = 2400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs Docker, built images and QEMU. One group at a time has machines."""
    for item in items:
        if "tests/machines/" in str(item.path):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.lane("machines"))
            # Those with machines: two emulated ones take both processors of CI, and are too slow to be tested beside
            # others.
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.alone)
            item.add_marker(pytest.mark.timeout(_TEST_S))
            # A file with a cluster of its own names its set-up itself.
            if item.get_closest_marker("setup") is None:
                names = getattr(item, "fixturenames", ())
                for fixture, setup in (("site", "machines"), ("owned", "owned")):
                    if fixture in names:
                        item.add_marker(pytest.mark.setup(setup))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect journals, consoles, routes and rules of every host when a test failed, and say where they are."""
    report = yield
    given = getattr(item, "funcargs", {})
    site = given.get("site") or given.get("owned")
    if report.failed and isinstance(site, ClusterSite):
        folder = collect(site, ROOT / "build" / "clusters" / item.name)
        report.sections.append(("cluster", f"journals, consoles, routes, rules and etcd's content are in {folder}"))
    return report


@pytest.fixture(scope="session")
def base() -> str:
    """The base of the machines' disk: that of the host image built last."""
    return docker_engine.newest_base()


@pytest.fixture(scope="session")
def machines(pytestconfig: pytest.Config) -> MakesMachines:
    """Makes a cluster of machines for the length of a `with` block; builds disk and kernel where they are missing."""

    def make(cluster: Cluster, *, suite: str = "") -> AbstractContextManager[ClusterSite]:
        if suite and not docker_engine.has_image(f"overlayd/host:{cluster.base}"):
            pytest.skip(f"the images of {cluster.base} are not built: invoke build-all --base {cluster.base}")
        with alone_in(pytestconfig, "builds"):
            virtual_hosts.build(cluster)
            wanted = replace(cluster, disk=str(additions.disk(cluster.base, suite))) if suite else cluster
        return standing(wanted)

    return make


@pytest.fixture(scope="session")
def site(base: str, machines: MakesMachines) -> Iterator[ClusterSite]:
    """Two machines, with their own disk's kernel. Whoever breaks something mends it."""
    with machines(Cluster(name=NAME, base=base, hosts=2, underlay=UNDERLAY, machines=True)) as found:
        yield found


@pytest.fixture(scope="session", params=OWNED)
def owned(request: pytest.FixtureRequest, machines: MakesMachines) -> Iterator[ClusterSite]:
    """Two machines of a suite of Debian with its NetworkManager, firewalld and dnsmasq."""
    base, kernel, underlay = OWNED[request.param]
    cluster = Cluster(name=f"ow-{request.param}", base=base, hosts=2, underlay=underlay, machines=True, kernel=kernel)
    with machines(cluster, suite=request.param) as found:
        yield found


@pytest.fixture
def a(site: ClusterSite) -> VirtualMachine:
    """The first machine."""
    return virtual_hosts.of(site, "host1")


@pytest.fixture
def b(site: ClusterSite) -> VirtualMachine:
    """The second machine."""
    return virtual_hosts.of(site, "host2")
