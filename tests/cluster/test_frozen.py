"""The frozen program brings all that it needs: it runs in an empty image; its size, memory and start are limited."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from overlayd import __version__
from rpm import bpf
from rpm.targets import FROZEN, INSTALLED
from tests.testbed.certificates import Authority
from tests.testbed.cluster.capability import may_load_bpf
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.packaged import built
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.polling import eventually

LABEL = "org.overlayd.cluster=frozen"

RPM_BYTES = 16_000_000
INSTALLED_BYTES = 45_000_000
# With TLS, a login and a peer to measure, as in the cluster; ssl takes 5 MB.
RESIDENT_BYTES = 55_000_000
READY_S, READY_US = 1, 1_000_000
# One quiet start among these is enough.
STARTS = 5


# A place where the program looks for the system's CAs.
CAS = "/etc/ssl/cert.pem"


@pytest.fixture(scope="module")
def nothing_but_the_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ID of an image with only the frozen program and a CA."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(ROOT / "build" / FROZEN, arcname=INSTALLED.lstrip("/"))
        tar.add(Authority(tmp_path_factory.mktemp("ca")).certificate, arcname=CAS.lstrip("/"))
    answer = client().api.import_image_from_data(packed.getvalue(), changes=[f"LABEL {LABEL}"])
    image = answer.strip().rpartition('"status":"')[2].partition('"')[0]
    try:
        yield image
    finally:
        client().images.remove(image, force=True)


def run(image: str, *words: str) -> tuple[int, str]:
    """Run the program in a container without a network; its exit status and output."""
    name, _, value = LABEL.partition("=")
    container = client().containers.create(
        image, [f"{INSTALLED}/overlayd", *words], network_mode="none", labels={name: value}
    )
    try:
        container.start()
        status = int(container.wait()["StatusCode"])
        return status, container.logs().decode()
    finally:
        container.remove(force=True, v=True)


def test_the_program_starts_in_an_image_without_a_c_library(nothing_but_the_program: str) -> None:
    assert run(nothing_but_the_program, "--version") == (0, f"overlayd {__version__}\n")


def test_grpc_and_etcd3_load_from_the_frozen_program(nothing_but_the_program: str) -> None:
    # `check` imports both, then finds no interface in a container without a network.
    status, said = run(nothing_but_the_program, "check")
    assert status == 2, said
    assert "Traceback" not in said
    assert "PYI" not in said


def test_the_frozen_program_has_tls(nothing_but_the_program: str) -> None:
    # A daemon without TLS does not load libssl, and never gRPC's own list of CAs.
    asked = ("config", "get", "--etcd-endpoints=https://127.0.0.1:1")
    status, said = run(nothing_but_the_program, *asked)
    assert (status, "Connection refused" in said) == (1, True), said
    status, said = run(nothing_but_the_program, *asked, f"--etcd-cafile={INSTALLED}/overlayd")
    assert (status, "holds no good certificate" in said) == (1, True), said


def test_the_package_is_small(site: ClusterSite) -> None:
    assert built().stat().st_size <= RPM_BYTES
    # The size of all files, as rpm counts it.
    assert int(site.hosts[0].run("rpm", "--query", "--queryformat=%{SIZE}", "overlayd")) <= INSTALLED_BYTES


def test_a_daemon_is_ready_within_a_second_if_etcd_answers(
    a: Machine, record_property: Callable[[str, object], None]
) -> None:
    took, worked = [], []
    for _start in range(STARTS):
        a.run("systemctl", "stop", "overlayd")
        # The command returns when the daemon is ready.
        a.run("systemctl", "start", "overlayd")
        stamps = a.unit("overlayd", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic", "MainPID")
        fields = a.run("cat", f"/proc/{stamps['MainPID']}/stat").rpartition(")")[2].split()
        # proc(5): utime and stime, in ticks.
        worked.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        took.append(int(stamps["ActiveEnterTimestampMonotonic"]) - int(stamps["InactiveExitTimestampMonotonic"]))
        if took[-1] < READY_US:
            break
    record_property("daemon ready", f"{min(took) / 1e6:.2f} s, of these {min(worked):.2f} s of processor time")
    # Other tests run at the same time: a second that the machine did not give counts for nothing.
    assert min(took) < READY_US or min(worked) < READY_S, (took, worked)


def test_the_daemon_stays_small_in_memory(site: ClusterSite) -> None:
    # The largest resident set since the start; an idle daemon never has more.
    resident = {host.name: eventually("it knows its peers", partial(peak, host)) for host in site.hosts}
    assert max(resident.values()) <= RESIDENT_BYTES, resident


def peak(host: Machine) -> int:
    """The largest resident set of a host's daemon so far, in bytes; 0 while it does not know all peers."""
    if host.status()["state"] != "ready" or len(host.status()["peers"]) < 2:
        return 0
    pid = host.unit("overlayd", "MainPID")["MainPID"]
    lines = host.run("cat", f"/proc/{pid}/status").splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(found) * 1024


def test_the_frozen_program_has_the_bpf_programs_and_what_loads_them() -> None:
    internal = ROOT / "build" / FROZEN / "_internal"
    assert (internal / "overlayd/fastpath" / bpf.OBJECT.name).read_bytes() == (ROOT / "build" / bpf.OBJECT).read_bytes()
    assert {"libbpf.so.1", "libelf.so.1"} <= {path.name for path in internal.iterdir()}
    listed = subprocess.run(
        ["rpm", "-qpl", "--nosignature", built()], capture_output=True, text=True, check=True
    ).stdout
    assert f"{INSTALLED}/_internal/overlayd/fastpath/{bpf.OBJECT.name}" in listed.splitlines()


@pytest.fixture
def with_bpf(a: Machine) -> Iterator[Machine]:
    """A host whose daemon may load BPF programs."""
    with may_load_bpf(a):
        yield a


def test_the_frozen_program_loads_its_bpf_programs(with_bpf: Machine) -> None:
    eventually("the fast path is on", partial(has_fast_path, with_bpf))
    pid = with_bpf.unit("overlayd", "MainPID")["MainPID"]
    assert f"{INSTALLED}/_internal/libbpf.so.1" in with_bpf.run("cat", f"/proc/{pid}/maps")


def has_fast_path(host: Machine) -> bool:
    """Whether packets of its containers pass the host's stack by."""
    return bool(host.status()["fast_path"] == "on")
