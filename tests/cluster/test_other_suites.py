"""Bases of newer suites of Debian: built from nothing; the suite's own programs; an RPM of another base; hosts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker.models.containers import Container

from images import recipes
from images.bases import catalogue, choose
from images.bases.catalogue import debian12_rpm, debian13_rpm, debian_testing_rpm
from images.bases.debian.suite import DebianSuite
from images.engine import docker_images
from images.engine.place import Place
from overlayd import __version__
from tests.testbed.cluster import bootable
from tests.testbed.cluster.checkout import checkout
from tests.testbed.cluster.create import ROOT, remove
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.invoked import invoke, invoked_well
from tests.testbed.cluster.packaged import RPM, YUM, tar
from tests.testbed.cluster.packaged import built as built_rpm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.lane("builds"),
    # The first test of a suite builds it from nothing.
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root filesystem is made by root"),
]
SUITES = (debian13_rpm.SUITE, debian_testing_rpm.SUITE)
CLUSTER = "suites"
UNDERLAY = "198.18.35.0/24"
# An image, a command in it, and the package of Debian whose version the output has.
PROGRAMS = (
    ("base", "systemctl --version", "systemd"),
    ("base", "rpm --version", "rpm"),
    ("base", "dnf --version", "dnf"),
    ("docker", "dockerd --version", "docker.io"),
    ("docker", "docker --version", "docker-cli"),
    ("docker", "containerd --version", "containerd"),
    ("docker", "runc --version", "runc"),
    ("etcd", "etcd --version", "etcd-server"),
    ("etcd", "etcdctl version", "etcd-client"),
    ("builder", "rpmbuild --version", "rpm"),
)


@dataclass(frozen=True)
class BuiltSuite:
    """A suite whose base was built in a checkout of its own."""

    suite: DebianSuite
    place: Place

    def image(self, name: str) -> str:
        return catalogue.get(self.suite.base).tag(name)

    def version(self, package: str) -> str:
        """The upstream version of a package in the suite, without what Debian added to it."""
        found = json.loads((self.place.build / self.suite.versions).read_text())[f"package {package}"]
        upstream = str(found).partition(":")[2].rpartition("-")[0]
        return re.split(r"[+~]", upstream)[0]


@pytest.fixture(scope="module", params=SUITES, ids=lambda suite: suite.codename)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuiltSuite]:
    """All images and the RPM of the suite's base. What was fetched stays in this checkout's cache."""
    suite: DebianSuite = request.param
    answer = choose.ask([catalogue.get(suite.base)])[suite.base]
    if not answer.ok:
        pytest.skip(answer.why)
    place = Place(root=tmp_path_factory.mktemp(suite.codename) / "checkout")
    checkout(place.root)
    fetched = (ROOT / "build" / suite.fetched, place.build / suite.fetched)
    link(*fetched)
    try:
        invoked_well("build-all", "--base", suite.base, root=place.root)
        link(*reversed(fetched))
        yield BuiltSuite(suite=suite, place=place)
    finally:
        docker_images.forget(place.owner)
        for image in client().images.list():
            # What another checkout built on this base has a tag of that checkout too.
            if image.tags and all(re.fullmatch(rf"overlayd/\w+:{suite.base}", tag) for tag in image.tags):
                for tag in image.tags:
                    client().images.remove(tag)
        # 2 GB.
        shutil.rmtree(place.root)


def link(source: Path, to: Path) -> None:
    """Give a folder the files of another one that it lacks, as hard links."""
    if source.is_dir():
        to.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", "--link", "--no-clobber", f"{source}/.", to], check=True)


@contextlib.contextmanager
def shell(image: str, script: str) -> Iterator[Container]:
    """A container without a network whose shell runs the script, as root."""
    container = client().containers.create(
        image, ["-euc", script], entrypoint="/bin/sh", network_mode="none", user="0", labels={"org.overlayd": "test"}
    )
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


def output(container: Container) -> str:
    container.start()
    status = container.wait(timeout=120)["StatusCode"]
    said = container.logs().decode(errors="replace")
    assert status == 0, said
    return said


@pytest.mark.parametrize("image", [name for name in recipes.NAMES if name != "probe" and recipes.get(name).container])
def test_every_image_runs_a_shell_and_says_which_release_it_is(built: BuiltSuite, image: str) -> None:
    with shell(built.image(image), ". /etc/os-release; echo $ID $VERSION_CODENAME") as container:
        assert output(container).split() == ["debian", built.suite.codename]


def test_the_probe_runs_its_programs(built: BuiltSuite) -> None:
    with shell(built.image("probe"), "ip -Version; ping -V; iperf3 --version") as container:
        assert f"iproute2-{built.version('iproute2')}" in output(container)


@pytest.mark.parametrize(("image", "command", "package"), PROGRAMS, ids=[program[1] for program in PROGRAMS])
def test_programs_are_the_suites_own(built: BuiltSuite, image: str, command: str, package: str) -> None:
    version = built.version(package)
    before = json.loads((ROOT / "build" / debian12_rpm.SUITE.versions).read_text()) if has_bookworm() else {}
    assert version not in before.get(f"package {package}", ""), "the version is that of Debian 12"
    with shell(built.image(image), command) as container:
        assert re.search(rf"(?<![\d.]){re.escape(version)}(?!\d)", output(container))


def has_bookworm() -> bool:
    return (ROOT / "build" / debian12_rpm.SUITE.versions).exists()


def test_only_of_testing_an_index_out_of_date_is_accepted(built: BuiltSuite) -> None:
    used = built.place.build / built.suite.root / "etc/apt/sources.list"
    lines = [line for line in used.read_text().splitlines() if line]
    assert len(lines) == 3, "the suite, its updates, and its security updates"
    assert all("signed-by=" in line and built.suite.codename in line for line in lines)
    assert all(("check-valid-until=no" in line) == (built.suite is debian_testing_rpm.SUITE) for line in lines)


def test_files_are_as_their_packages_installed_them(built: BuiltSuite) -> None:
    with shell(built.image("host"), "rpm --verify --all || true") as container:
        # No account has a password: the recipe of the image base locks root.
        assert [line.split()[-1] for line in output(container).splitlines()] == ["/etc/shadow"]


def test_dnf_installs_the_rpm_that_was_built_on_another_base(built: BuiltSuite) -> None:
    """The RPM of this checkout, built on the base under test: where that is Debian 12, the oldest C library of all."""
    script = f"""
        {" ".join(YUM)} install {RPM} >/root/said 2>&1 || {{ cat /root/said; exit 1; }}
        rpm --verify overlayd
        overlayd --version
        overlayd doctor --help | head -1
    """
    with shell(built.image("docker"), script) as container:
        container.put_archive("/root", tar({RPM: built_rpm().read_bytes()}))
        first, second = output(container).splitlines()
    assert first == f"overlayd {__version__}"
    assert second.startswith("usage: overlayd doctor")


def test_etcd_starts_and_is_healthy(built: BuiltSuite) -> None:
    script = "etcd >/tmp/log 2>&1 & for _ in $(seq 100); do etcdctl endpoint health && exit 0; sleep 0.2; done; exit 1"
    with shell(built.image("etcd"), script) as container:
        assert "is healthy" in output(container)


def test_two_hosts_reach_each_other_or_a_message_names_virtual_machines(built: BuiltSuite) -> None:
    words = ("--name", CLUSTER)
    up = ("cluster.up", *words, "--hosts", "2", "--base", built.suite.base, "--underlay", UNDERLAY)
    try:
        done = invoke(*up, root=built.place.root)
        if why := bootable.why_not(built.suite.base):
            assert (done.returncode, done.stdout) == (3, "")
            assert why in done.stderr
            assert "--machines" in done.stderr
            return
        assert done.returncode == 0, done.stdout + done.stderr
        # Every container pings every other and sends TCP; a lost packet is an error.
        assert "10.42." in invoked_well("cluster.show", *words, root=built.place.root)
    finally:
        remove(CLUSTER)
