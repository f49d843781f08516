"""Fixtures: one lab with two hosts for each backend, and what everybody did when a test failed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import pytest

from images.engine.files import write
from tests.testbed.cluster.roots import NoSuchRelease
from tests.testbed.netns.docker_site import DockerSite, docker_site
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.real_docker import RELEASES, DockerRelease
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually
from tests.testbed.records import tell_logs

# What a failed test's hosts looked like is printed, and is there for the page of the night.
LOGS = Path(__file__).resolve().parents[2] / "build" / "labs"
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
    "wireguard": {"Type": "wireguard"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs root and the kernel; those with one lab or site of this file are one set-up."""
    for item in items:
        if "tests/kernel/" in str(item.path):
            item.add_marker(pytest.mark.kernel)
            for fixture, parameter in (("lab", "backend"), ("site", "site")):
                if _is_ours(item, fixture):
                    which = item.callspec.params[parameter]
                    item.add_marker(pytest.mark.setup(f"{fixture} {getattr(which, 'name', which)}"))
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: makes network namespaces"))


def _is_ours(item: pytest.Item, fixture: str) -> TypeGuard[pytest.Function]:
    """Whether a test has the fixture of this file, and not one by the same name of its own."""
    return isinstance(item, pytest.Function) and fixture in item.fixturenames and not hasattr(item.module, fixture)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add links, routes, rules and logs of every host to the report of a failed test."""
    report = yield
    given = getattr(item, "funcargs", {})
    lab = given.get("lab") or getattr(given.get("site"), "lab", None)
    if report.failed and lab is not None:
        report.sections += [(f"host {host.name}", host.dump()) for host in lab.hosts]
    dockers = getattr(given.get("site"), "dockers", {})
    if report.failed:
        report.sections += [(f"docker of {name}", docker.dump()) for name, docker in dockers.items()]
    if report.failed and (lab is not None or dockers):
        folder = LOGS / item.name
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in report.sections:
            write(folder / f"{name}.txt", text)
        tell_logs(folder, item.user_properties, report.user_properties)
    return report


@pytest.fixture(scope="session", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """The type of backend; every test that asks for it runs once for each."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def lab(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with hosts a and b, shared by all tests of one backend: whoever breaks something mends it."""
    with laboratory(tmp_path_factory.mktemp(backend), BACKENDS[backend]) as lab:
        lab.host("a")
        lab.host("b")
        yield lab


# `make test` takes one release: the newest, which closes hosts the most.
@pytest.fixture(
    scope="session",
    params=[pytest.param(one, id=one.name, marks=() if one.closes else pytest.mark.slow) for one in RELEASES],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerSite]:
    """Hosts with a real Docker of one release, shared by its tests: whoever breaks something mends it."""
    release: DockerRelease = request.param
    try:
        release.root()
    except NoSuchRelease as error:
        pytest.skip(error.message)
    with docker_site(tmp_path_factory.mktemp("site"), release) as site:
        yield site


@pytest.fixture
def a(lab: Lab) -> Host:
    """The first host."""
    return lab.hosts[0]


@pytest.fixture
def b(lab: Lab, a: Host) -> Host:
    """The second host, reachable from the first."""
    host = lab.hosts[1]
    eventually("b is reachable from a", lambda: pings(a, host))
    return host
