"""Fixtures: one cluster of three hosts for all tests of this folder, and what it looked like when a test failed."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from ipaddress import IPv4Network

import pytest

from tests.sharing import alone_in
from tests.testbed.cluster import docker_engine, packaged
from tests.testbed.cluster.collect import collect
from tests.testbed.cluster.create import ROOT, standing
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.records import tell_logs

BACKENDS = ("vxlan", "host-gw", "udp")
# Apart from the cluster of `make up`, which may be running beside the tests.
NAME = "test"
UNDERLAY = IPv4Network("198.18.20.0/24")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs Docker and built images; who has the cluster or the packages is one set-up."""
    for item in items:
        if "tests/cluster/" in str(item.path):
            item.add_marker(pytest.mark.cluster)
            if {"_cluster", "packages"} & set(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.setup("cluster"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect journals, routes and rules of every host when a test failed, and say where they are."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and site is not None:
        folder = collect(site, ROOT / "build" / "clusters" / item.name)
        report.sections.append(("cluster", f"journals, routes, rules and etcd's content are in {folder}"))
        tell_logs(folder, item.user_properties, report.user_properties)
    return report


@pytest.fixture(scope="session")
def base() -> str:
    """The base image of the images under test: CLUSTER_BASE, else that of the host image built last."""
    return os.environ.get("CLUSTER_BASE") or docker_engine.newest_base()


@pytest.fixture(scope="session")
def packages(base: str, pytestconfig: pytest.Config) -> packaged.Packages:
    """The RPM, and a newer one, for whichever host."""
    with alone_in(pytestconfig, "builds"):
        return packaged.packages(base)


@pytest.fixture(scope="session")
def _cluster(base: str) -> Iterator[ClusterSite]:
    with standing(Cluster(name=NAME, base=base, underlay=UNDERLAY)) as found:
        yield found


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest, _cluster: ClusterSite) -> str:
    """The backend's name; the cluster is switched to it. Every test that asks for it runs once for each."""
    name: str = request.param
    _cluster.use(name)
    return name


@pytest.fixture
def site(_cluster: ClusterSite) -> ClusterSite:
    """The cluster on whichever backend it is: whoever breaks something mends it."""
    return _cluster


@pytest.fixture
def a(site: ClusterSite) -> Machine:
    """The first host."""
    return site.hosts[0]


@pytest.fixture
def b(site: ClusterSite) -> Machine:
    """The second host."""
    return site.hosts[1]
