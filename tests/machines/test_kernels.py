"""Each kernel of Debian's suites carries every backend that it has a device for, loads what that needs, and says else.

One cluster of two machines for each kernel; it begins with plain routes, and is switched from backend to backend.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network

import pytest

from images.machine.kernels import SUITES
from overlayd.kernel.modules import OFF
from tests.machines.flows import MEGABYTE, connect, has_reached, passes, transfer
from tests.machines.making import MakesMachines
from tests.testbed.cluster.description import Cluster, backend_json
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

pytestmark = [pytest.mark.slow, pytest.mark.setup("kernels")]

UNDERLAY = IPv4Network("198.18.50.0/24")
UNDERLAY_MTU = 1500
_UNIT = "/sys/fs/cgroup/system.slice/overlayd.service"


@dataclass(frozen=True, kw_only=True)
class Carrying:
    """What a backend needs of the kernel: its device, that device's kind and modules; and what it adds to a packet."""

    backend: str
    overhead_bytes: int
    device: str = ""
    kind: str = ""
    modules: frozenset[str] = frozenset()


# host-gw first: it needs no module, so that the others' are seen to be loaded when a network config asks for them.
CARRYING = (
    Carrying(backend="host-gw", overhead_bytes=0),
    Carrying(backend="vxlan", overhead_bytes=50, device="overlay.1", kind="vxlan", modules=frozenset({"vxlan"})),
    Carrying(
        backend="ipip",
        overhead_bytes=20,
        device="overlay.ipip",
        kind="ipip",
        modules=frozenset({"ipip", "tunnel4", "ip_tunnel"}),
    ),
    Carrying(
        backend="wireguard",
        overhead_bytes=80,
        device="overlay-wg",
        kind="wireguard",
        modules=frozenset({"wireguard"}),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A cluster that was switched to a backend: which modules each machine had loaded before."""

    to: Carrying
    before: dict[str, frozenset[str]]


# Of a wider scope than the backend: so pytest does all tests of one kernel before those of the next, and boots it once.
@pytest.fixture(scope="session", params=SUITES)
def kernel(request: pytest.FixtureRequest) -> str:
    """The kernel's version, as Debian's suites have it."""
    found: str = request.param
    return found


@pytest.fixture(scope="session")
def _cluster(base: str, kernel: str, machines: MakesMachines) -> Iterator[ClusterSite]:
    name = f"kn{kernel.replace('.', '')}"
    cluster = Cluster(name=name, base=base, hosts=2, underlay=UNDERLAY, machines=True, kernel=kernel)
    with machines(Cluster(**{**vars(cluster), "backend": backend_json(CARRYING[0].backend)})) as found:
        yield found


@pytest.fixture
def site(_cluster: ClusterSite) -> ClusterSite:
    """The machines on whichever backend they are."""
    return _cluster


@pytest.fixture(scope="module", params=CARRYING, ids=lambda carrying: carrying.backend)
def switched(request: pytest.FixtureRequest, _cluster: ClusterSite) -> Switch:
    """The cluster is switched to each backend in turn."""
    wanted: Carrying = request.param
    before = {machine.name: _loaded(machine) for machine in _cluster.hosts}
    _cluster.use(wanted.backend)
    return Switch(to=wanted, before=before)


def _loaded(machine: Machine) -> frozenset[str]:
    return frozenset(line.split()[0] for line in machine.run("cat", "/proc/modules").splitlines())


def test_the_machines_run_that_kernel(kernel: str, site: ClusterSite) -> None:
    assert [machine.run("uname", "-r").startswith(f"{kernel}.") for machine in site.hosts] == [True, True]


def test_containers_reach_each_other_by_the_kernels_own_device(
    switched: Switch, site: ClusterSite, record_property: Recorder
) -> None:
    for source, target in site.pairs:
        connection = connect(source, target, switched.to.backend, record_property)
        assert connection.lost == 0, connection
    if switched.to.kind:
        for machine in site.hosts:
            (link,) = json.loads(machine.run("ip", "-json", "-details", "link", "show", switched.to.device))
            assert link["linkinfo"]["info_kind"] == switched.to.kind
            assert "wireguard-go" not in machine.run("ps", "-eo", "comm")


def test_tcp_fills_the_packets_that_the_path_takes_and_the_other_end_sees_the_containers_address(
    switched: Switch, site: ClusterSite
) -> None:
    mtu_bytes = UNDERLAY_MTU - switched.to.overhead_bytes
    for source, target in site.pairs:
        assert source.status()["mtu_bytes"] == mtu_bytes
        assert f"mtu {mtu_bytes} " in source.in_probe("ip", "link", "show", "eth0")
        assert passes(source, target, mtu_bytes)
        assert not passes(source, target, mtu_bytes + 1)
        done = transfer(source, target)
        assert (done.received_bytes >= MEGABYTE, done.source) == (True, source.probe_address())
        assert done.packet_bytes == mtu_bytes


def test_what_containers_send_takes_the_fast_path_where_the_kernel_has_it(
    switched: Switch, kernel: str, site: ClusterSite
) -> None:
    """Linux 5.10 cannot write VXLAN's headers. Such packets go the kernel's way, and none is lost."""
    backend = switched.to.backend
    fast = backend == "host-gw" or (backend == "vxlan" and kernel != "5.10")
    words = {"vxlan": "on" if fast else "this kernel cannot write VXLAN's headers", "host-gw": "on"}
    for source, target in site.pairs:
        # A transfer first: what a kernel lacks is found out by packets.
        transfer(source, target)
        wanted = words.get(backend, f"only the backend {backend} itself")
        eventually(f"{source.name}: {wanted}", partial(_says_of_fast_path, source, wanted), timeout_s=source.patience_s)
        before = _by_docker0(source)
        assert transfer(source, target).received_bytes >= MEGABYTE
        assert (_by_docker0(source) - before < MEGABYTE // 4) is fast


def _says_of_fast_path(machine: Machine, words: str) -> bool:
    return words in str(machine.status()["fast_path"])


def _by_docker0(machine: Machine) -> int:
    """How many bytes containers' packets had that came through their bridge, so far."""
    return int(machine.run("cat", "/sys/class/net/docker0/statistics/rx_bytes"))


def test_the_kernel_loads_the_modules_when_the_network_config_needs_them(switched: Switch, site: ClusterSite) -> None:
    everywhere = frozenset[str]().union(*(carrying.modules for carrying in CARRYING))
    for machine in site.hosts:
        if switched.to.modules:
            assert not switched.to.modules <= switched.before[machine.name]
            assert switched.to.modules <= _loaded(machine)
        else:
            # Docker and the disk's own settings load others, and none of these.
            assert not {"vxlan", "ipip", "wireguard"} & everywhere & _loaded(machine)
        # The unit has no right to load one; the kernel does it.
        capabilities = machine.unit("overlayd", "CapabilityBoundingSet")["CapabilityBoundingSet"]
        assert set(capabilities.split()) == {"cap_net_admin", "cap_net_raw", "cap_bpf", "cap_perfmon"}


def test_reachability_is_measured_from_inside_a_container(switched: Switch, site: ClusterSite) -> None:
    for machine, other in site.pairs:
        eventually("it is reached", partial(has_reached, machine, other), timeout_s=machine.patience_s)
        eventually("its container asks", machine.asks_from_probe, timeout_s=machine.patience_s)


def test_systemd_and_docker_run_on_control_groups_of_version_2(site: ClusterSite) -> None:
    for machine in site.hosts:
        assert machine.run("stat", "-f", "-c", "%T", "/sys/fs/cgroup").strip() == "cgroup2fs"
        assert machine.run("docker", "info", "--format", "{{.CgroupVersion}}").strip() == "2"


def test_the_units_limit_of_memory_ends_what_took_it_and_not_the_daemon(a: VirtualMachine) -> None:
    limit = int(a.run("cat", f"{_UNIT}/memory.max"))
    assert limit == int(a.unit("overlayd", "MemoryMax")["MemoryMax"]) == 512 << 20
    before, killed = a.unit("overlayd", "MainPID"), _event(a, "memory", "oom_kill")
    # tail keeps a line that never ends, as a child of the daemon that leaks would.
    a.shell(f"(echo 0 > {_UNIT}/cgroup.procs; exec tail /dev/zero) >/dev/null 2>&1 || true")
    assert _event(a, "memory", "oom_kill") > killed
    assert a.unit("overlayd", "MainPID") == before
    assert a.status()["state"] == "ready"


def test_the_units_limit_of_tasks_refuses_more_and_the_daemon_goes_on(a: VirtualMachine) -> None:
    limit = int(a.run("cat", f"{_UNIT}/pids.max"))
    assert limit == int(a.unit("overlayd", "TasksMax")["TasksMax"]) == 512
    before, refused = a.unit("overlayd", "MainPID"), _event(a, "pids", "max")
    # The shell ends where it cannot fork; what it started ends by itself, or is ended here.
    a.shell(
        f"(echo 0 > {_UNIT}/cgroup.procs; for number in $(seq {limit}); do sleep 60 & done) >/dev/null 2>&1;"
        f" for number in $(cat {_UNIT}/cgroup.procs); do"
        ' [ "$(cat /proc/$number/comm)" = sleep ] && kill $number; done; true'
    )
    assert _event(a, "pids", "max") > refused
    assert a.unit("overlayd", "MainPID") == before
    eventually("the daemon is ready", lambda: a.status()["state"] == "ready", timeout_s=60)


def _event(machine: Machine, controller: str, name: str) -> int:
    lines = machine.run("cat", f"{_UNIT}/{controller}.events").splitlines()
    return int(dict(line.split() for line in lines)[name])


# The last one of each kernel: a machine on which no module can be loaded stays so until it boots again.
def test_where_no_module_can_be_loaded_the_daemon_says_so_and_the_network_goes_on(
    site: ClusterSite, a: VirtualMachine, b: VirtualMachine, record_property: Recorder
) -> None:
    site.reconfigure(backend_json("host-gw"))
    for machine in (a, b):
        machine.run("modprobe", "--remove", "vxlan", "ipip", "wireguard")
    a.run("sysctl", "-w", "kernel.modules_disabled=1")
    for backend, device in (("wireguard", "WireGuard"), ("ipip", "IP-in-IP"), ("vxlan", "VXLAN")):
        _refuses(site, a, backend, f"this kernel has no {device}")
    # Whoever starts under such a config waits for another one, and takes it.
    a.run("systemctl", "restart", "--no-block", "overlayd")
    eventually("it waits", lambda: _problem_of(a, "waiting"), timeout_s=a.patience_s)
    assert OFF in _problem_of(a, "waiting")
    findings = json.loads(a.shell("overlayd doctor --json || true"))["findings"]
    (features,) = (one for one in findings if one["name"] == "kernel-features")
    assert (features["state"], "kernel.modules_disabled is 1" in features["found"]) == ("problem", True)
    site.write_network_config(Cluster(**{**vars(site.cluster), "backend": backend_json("host-gw")}).network_config)
    for machine in (a, b):
        eventually("it is ready", partial(_is_ready, machine, "host-gw"), timeout_s=a.patience_s)
    assert connect(a, b, "host-gw", record_property).lost == 0


def _refuses(site: ClusterSite, machine: Machine, backend: str, sentence: str) -> None:
    """The config is refused with this sentence and the reason, and the backend that works is kept."""
    site.write_network_config(Cluster(**{**vars(site.cluster), "backend": backend_json(backend)}).network_config)
    eventually("it is refused", lambda: sentence in _problem_of(machine, "ready"), timeout_s=machine.patience_s)
    assert OFF in _problem_of(machine, "ready")
    assert machine.status()["backend"] == "host-gw"


def _problem_of(machine: Machine, state: str) -> str:
    status = machine.status()
    return str(status["problem"] or "") if status["state"] == state else ""


def _is_ready(machine: Machine, backend: str) -> bool:
    status = machine.status()
    return bool((status["state"], status["backend"], status["problem"]) == ("ready", backend, None))
