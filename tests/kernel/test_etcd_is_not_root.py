"""Whoever can write to etcd can neither run programs on a host nor take the host off its network."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from overlayd.doctor.gather.host import device_feature
from tests.kernel.test_extension import Programs
from tests.testbed.netns import namespaces
from tests.testbed.netns.flannel_host import PREFIX
from tests.testbed.netns.lab import NETWORK, Host, Lab, laboratory
from tests.testbed.netns.traffic import pinging, pings
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

# An earlier version ran the commands of a hostile config within half a second.
WITHIN_S = 5.0
KEYS = ("PreStartupCommand", "PostStartupCommand", "SubnetAddCommand", "SubnetRemoveCommand", "ShutdownCommand")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b in a vxlan network."""
    with laboratory(tmp_path_factory.mktemp("not-root"), {"Type": "vxlan"}) as lab:
        first, second = lab.host("a"), lab.host("b")
        eventually("b is reachable from a", lambda: pings(first, second))
        yield lab


@pytest.fixture(autouse=True)
def as_it_was(lab: Lab, a: Host, b: Host) -> Iterator[None]:
    """Each test begins and ends with the good config, and with new daemons that have seen no change of it."""
    yield
    write(lab, {"Type": "vxlan"})
    for host in (a, b):
        host.stop()
        host.start()
    eventually("both serve it", lambda: all(problem_of(host) == "" and ready(host) for host in (a, b)))


def write(lab: Lab, backend: object) -> None:
    """Write a config as an attacker with etcdctl does, without any check."""
    lab.etcdctl("put", f"{PREFIX}/config", json.dumps({"Network": str(NETWORK), "Backend": backend}))


def hostile(trap: Path) -> dict[str, str]:
    """A config in which each command makes a file with a shell."""
    return {"Type": "extension", **dict.fromkeys(KEYS, f"sh -c 'touch {trap}'")}


def never(what: str, condition: Callable[[], object], *, for_s: float) -> None:
    """Assert that the condition stays false for that long."""
    pause, ends = threading.Event(), time.monotonic() + for_s
    while time.monotonic() < ends:
        assert not condition(), what
        pause.wait(0.05)


def problem_of(host: Host) -> str:
    """What a host's status says of the network config."""
    return host.status().get("problem") or ""


def ready(host: Host) -> bool:
    """Whether the daemon serves a network."""
    return host.status().get("state") == "ready"


def test_a_hostile_config_runs_nothing_on_hosts_that_serve_and_packets_go_on(
    lab: Lab, a: Host, b: Host, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    with pinging(a, b) as losses:
        write(lab, hostile(trap))
        eventually("both say so", lambda: all("extension-commands is not set" in problem_of(host) for host in (a, b)))
        never("it is run", trap.exists, for_s=WITHIN_S)
    assert losses.lost == 0
    assert ready(a)
    assert ready(b)
    assert "overlay.1" in a.run("ip", "link")
    assert a.call("status").returncode == 1
    assert "extension-commands is not set" in a.call("status").stdout


def test_a_hostile_config_runs_nothing_on_a_starting_host_which_waits_and_says_why(
    lab: Lab, a: Host, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    a.stop()
    write(lab, hostile(trap))
    a.start(ready=False)
    eventually("it says so", lambda: "extension-commands is not set" in problem_of(a))
    never("it is run", trap.exists, for_s=WITHIN_S)
    assert a.status()["state"] == "waiting"
    said = a.call("check")
    assert said.returncode == 2
    assert "extension-commands is not set" in said.stderr
    assert not trap.exists()


def test_a_hostile_config_runs_nothing_on_a_host_that_loses_its_lease(lab: Lab, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    host = lab.host("c")
    lost = host.subnet
    key = f"{PREFIX}/subnets/{lost.network_address}-{lost.prefixlen}"
    try:
        write(lab, hostile(trap))
        eventually("it says so", lambda: "extension-commands is not set" in problem_of(host))
        lab.etcdctl("put", key, json.dumps({"PublicIP": "198.18.1.55", "BackendType": "vxlan", "BackendData": {}}))
        eventually("it has another subnet of the network it was in", lambda: ready(host) and host.subnet != lost)
        never("it is run", trap.exists, for_s=WITHIN_S)
        assert host.subnet.subnet_of(NETWORK)
        assert "extension-commands is not set" in problem_of(host)
    finally:
        lab.etcdctl("del", key)
        lab.remove_host(host)


@pytest.mark.parametrize(
    "backend",
    [
        {"Type": "nosuch"},
        {"Type": "vxlan", "VNI": "x"},
        {"Type": "wireguard", "ListenPort": -1},
        {"Type": "udp", "Port": "x"},
    ],
    ids=lambda backend: backend["Type"],
)
def test_a_config_that_this_host_refuses_does_not_take_it_off_its_network(
    lab: Lab, a: Host, b: Host, backend: dict[str, object]
) -> None:
    with pinging(a, b) as losses:
        write(lab, backend)
        eventually("both say so", lambda: all(problem_of(host) for host in (a, b)))
        never("it leaves", lambda: not ready(a), for_s=1)
    assert losses.lost == 0


def test_a_port_that_another_program_has_does_not_take_a_host_off_its_network(lab: Lab, a: Host, b: Host) -> None:
    def occupy() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.53", 5353))
        return made

    with ExitStack() as held:
        for host in (a, b):
            held.enter_context(namespaces.inside(host.namespace, occupy))
        write(lab, {"Type": "vxlan", "Port": 5353})
        eventually("both say so", lambda: all("in use" in problem_of(host) for host in (a, b)))
        eventually("both are back", lambda: ready(a) and ready(b) and pings(a, b))
        with pinging(a, b) as losses:
            never("they leave again", lambda: not ready(a), for_s=4)
        assert losses.lost == 0


def test_a_host_behind_nat_is_not_ended_by_a_backend_that_it_cannot_have(lab: Lab) -> None:
    host = lab.host("n", settings={"public-ip": "198.18.1.77"})
    try:
        write(lab, {"Type": "host-gw"})
        eventually("it says so", lambda: "public-ip" in problem_of(host))
        never("it ends", lambda: not host.runs(), for_s=2)
        assert ready(host)
        host.stop()
        host.start(ready=False)
        eventually("it says so again", lambda: "public-ip" in problem_of(host) and not ready(host))
        never("it ends", lambda: not host.runs(), for_s=2)
        write(lab, {"Type": "vxlan"})
        eventually("it serves what it can", lambda: ready(host))
    finally:
        lab.remove_host(host)


def test_a_config_that_this_kernel_cannot_have_is_left_again(
    lab: Lab, a: Host, b: Host, record_property: Recorder
) -> None:
    if device_feature("ipip").there:
        pytest.skip("this kernel has ipip, and there is no other backend that it may lack")
    with pinging(a, b) as losses:
        write(lab, {"Type": "ipip"})
        eventually("both say so", lambda: all("IP-in-IP" in problem_of(host) and ready(host) for host in (a, b)))
        never("it ends", lambda: not a.runs(), for_s=2)
    losses.fault("config names a backend that the kernel lacks", "vxlan").record(record_property)
    # On a quiet machine none is lost. The two changes take as long as writing rules: half a second on a busy machine.
    assert losses.lost < 100
    assert a.status()["backend"] == "vxlan"


def test_with_consent_other_commands_wait_for_a_restart(lab: Lab, tmp_path: Path) -> None:
    programs = Programs(tmp_path / "commands")
    host = lab.host("c", settings=programs.settings)
    try:
        write(lab, programs.host_gw)
        eventually("it waits", lambda: "systemctl restart overlayd" in problem_of(host))
        assert host.status()["backend"] == "vxlan"
        never("it is taken", lambda: host.status()["backend"] != "vxlan", for_s=2)
        host.stop()
        host.start()
        assert host.status()["backend"] == "extension"
        # A change from commands to other commands waits too.
        trap = tmp_path / "trap"
        write(lab, {**programs.host_gw, "SubnetAddCommand": f"{programs.folder}/route add $SUBNET dev lo"})
        eventually("it waits", lambda: "systemctl restart overlayd" in problem_of(host))
        # A program outside the folder is refused, also after a restart.
        write(lab, hostile(trap))
        eventually("it is refused", partial(_has, host, "is not a program in"))
        assert not trap.exists()
        # A change to another backend is followed at once, and what the commands did is undone.
        write(lab, {"Type": "vxlan"})
        eventually("it follows", lambda: ready(host) and host.status()["backend"] == "vxlan")
    finally:
        lab.remove_host(host)


def _has(host: Host, text: str) -> bool:
    return text in problem_of(host)
