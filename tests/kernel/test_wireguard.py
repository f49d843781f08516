"""WireGuard between hosts: encryption, keys, repair. The devices are wireguard-go's where the kernel has no WireGuard.

Tests of all backends check elsewhere that containers reach each other, the MTU, and repairs.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from overlayd.lib import process
from tests.testbed.netns import namespaces, wireguard_devices
from tests.testbed.netns.lab import Host, Lab, environment, laboratory
from tests.testbed.netns.traffic import lost_of_size, pinging, pings, pings6
from tests.testbed.polling import eventually
from tests.testbed.processes import name_of
from tests.testbed.records import Recorder

PSK = base64.b64encode(b"a secret that nobody may see at all"[:32]).decode()
CONFIG: dict[str, Any] = {"Type": "wireguard", "PSK": PSK, "PersistentKeepaliveInterval": 1}
DEVICE = "overlay-wg"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts a and b, shared by the tests; a test that breaks something repairs it."""
    with laboratory(tmp_path_factory.mktemp("wireguard"), CONFIG) as lab:
        lab.host("a"), lab.host("b")
        yield lab


@pytest.fixture
def by_process() -> None:
    """Skip the test where the devices are not wireguard-go's."""
    if wireguard_devices.in_kernel():
        pytest.skip("this machine's kernel has WireGuard, so overlayd starts no wireguard-go")


def shown(host: Host, what: str) -> list[list[str]]:
    """The output of `wg show overlay-wg`: one line for each peer, or one for the device."""
    return [line.split() for line in host.run("wg", "show", DEVICE, what).splitlines()]


def configured(host: Host) -> str:
    """The device's whole configuration, as text."""
    return host.run("wg", "showconf", DEVICE)


def processes(host: Host) -> list[Path]:
    """The processes on this host, by their folders in /proc."""
    return [Path("/proc") / pid for pid in process.run(["ip", "netns", "pids", host.namespace]).split()]


def carriers(host: Host) -> list[int]:
    """The ids of the wireguard-go processes on this host."""
    return [int(one.name) for one in processes(host) if name_of(one.name) == "wireguard-go"]


@contextmanager
def tapped(lab: Lab) -> Iterator[socket.socket]:
    """A socket that sees every frame that crosses the switch."""
    every = socket.htons(0x0003)  # ETH_P_ALL
    with namespaces.inside(lab.switch, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every)) as tap:
        tap.settimeout(5)
        yield tap


def test_the_underlay_sees_only_what_is_encrypted(lab: Lab, a: Host, b: Host) -> None:
    with tapped(lab) as tap:
        size = "-s 104 -p 6f7665726c617964"  # `overlayd`, thirteen times
        namespaces.run(a.container, ["ping", "-n", "-c", "3", "-i", "0.2", *size.split(), str(b.container_address)])
        frames = list[bytes]()
        while sum(len(frame) >= 104 and b"\xca\x6c" in frame for frame in frames) < 6:
            frames.append(tap.recv(2000))
    assert not [frame for frame in frames if b"overlayd" in frame]


def test_peers_have_the_preshared_key_and_exchange_keepalives(a: Host, b: Host) -> None:
    assert [words[1] for words in shown(a, "preshared-keys")] == [PSK]
    assert [words[1] for words in shown(a, "persistent-keepalive")] == ["1"]
    before = int(shown(a, "transfer")[0][1])
    eventually("a hears of b", lambda: int(shown(a, "transfer")[0][1]) > before)


def test_secrets_are_in_no_log_status_or_process_arguments(a: Host, b: Host) -> None:
    private = (a.state_dir / "wireguard.key").read_text().strip()
    hexadecimal = base64.b64decode(private).hex()
    said = a.log.read_text() + (a.run_dir / "status.json").read_text()
    # What the daemon starts, such as iptables, ends soon.
    eventually("the daemon and wireguard-go", lambda: len(processes(a)) == 1 + len(carriers(a)))
    for one in processes(a):
        with suppress(FileNotFoundError, ProcessLookupError):
            said += (one / "cmdline").read_text() + (one / "environ").read_text()
    assert f"{a.run_dir}" in said
    check = subprocess.run(a.overlayd("check"), capture_output=True, text=True, env=environment(), check=True)
    said += check.stdout + check.stderr
    assert "(not shown)" in said
    assert not [secret for secret in (PSK, private, hexadecimal) if secret in said]


def test_a_restarted_daemon_keeps_key_subnet_and_data_path(a: Host, b: Host, record_property: Recorder) -> None:
    before, running, subnet = configured(a), carriers(a), a.subnet
    with pinging(b, a) as losses:
        assert a.stop() == 0
        assert all(pings(a, b) for _ in range(5))
        a.start()
    losses.fault("daemon restarted", "wireguard").record(record_property)
    assert (configured(a), carriers(a), a.subnet) == (before, running, subnet)
    # With wireguard-go a program carries the packets, and may be late on a busy machine.
    assert losses.lost <= 2


def test_a_killed_wireguard_go_comes_back(by_process: None, a: Host, b: Host) -> None:
    before = configured(a)
    (carrier,) = carriers(a)
    os.kill(carrier, signal.SIGKILL)
    eventually("a reaches b again", lambda: carriers(a) not in ([], [carrier]) and pings(a, b))
    assert configured(a) == before
    assert pings(b, a)


def test_a_wireguard_go_that_hangs_is_left_alone_and_reported(by_process: None, a: Host, b: Host) -> None:
    (carrier,) = carriers(a)
    os.kill(carrier, signal.SIGSTOP)
    try:
        eventually("a says so", lambda: "Connection timed out" in str(a.status()["problems"]))
        assert carriers(a) == [carrier]
    finally:
        os.kill(carrier, signal.SIGCONT)
    eventually("all is well again", lambda: a.status()["problems"] == [] and pings(a, b))


def test_a_deleted_device_comes_back(a: Host, b: Host) -> None:
    before = configured(a)
    a.run("ip", "link", "delete", DEVICE)
    eventually("a reaches b again", lambda: pings(a, b))
    assert configured(a) == before


def test_what_somebody_changes_on_the_device_is_changed_back(a: Host, b: Host) -> None:
    before = configured(a)
    (peer, _endpoint) = shown(a, "endpoints")[0]
    stranger = base64.b64encode(b"\x05" * 32).decode()
    for words in (
        ["listen-port", "7777", "peer", peer, "remove", "peer", stranger, "allowed-ips", f"{b.subnet}"],
        ["private-key", "/dev/null", "peer", peer, "allowed-ips", "10.5.0.0/16", "preshared-key", "/dev/null"],
    ):
        a.run("wg", "set", DEVICE, *words)
        assert configured(a) != before
        eventually("it is as it was", lambda: configured(a) == before)
    a.run("ip", "link", "set", DEVICE, "mtu", "1300", "down")
    eventually("a reaches b again", lambda: pings(a, b))
    assert lost_of_size(a, b, 1420) == "0 of 2"


def test_cleanup_leaves_nothing(lab: Lab) -> None:
    third = lab.host("c", lease_ttl_s=5)
    try:
        third.stop()
        if not wireguard_devices.in_kernel():
            assert carriers(third)
            assert list(third.sockets.iterdir())
        removed = third.cleanup()
        assert f"removed link {DEVICE} wireguard listen-port 51820" in removed
        assert (carriers(third), list(third.sockets.iterdir()), list(third.run_dir.iterdir())) == ([], [], [])
        assert "overlay" not in third.run("ip", "link")
        assert third.run("ip", "route", "show", "proto", "157") == ""
        assert third.cleanup() == ""
    finally:
        lab.remove_host(third)


def test_cleanup_removes_the_socket_of_a_killed_wireguard_go(by_process: None, lab: Lab) -> None:
    third = lab.host("d", lease_ttl_s=5)
    try:
        third.stop(signal.SIGKILL)
        os.kill(carriers(third)[0], signal.SIGKILL)
        eventually("its device is gone", lambda: DEVICE not in third.run("ip", "link"))
        assert f"removed socket /var/run/wireguard/{DEVICE}.sock" in third.cleanup()
        assert list(third.sockets.iterdir()) == []
    finally:
        lab.remove_host(third)


def refusal(host: Host, *before: str) -> tuple[int, str]:
    """Exit status and message of a daemon that has to end by itself."""
    own = host.overlayd("run")[len(host.enter) :]
    argv = [*host.enter, *before, *own]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=30, check=False)
    return done.returncode, done.stderr


@pytest.fixture
def unstarted(lab: Lab) -> Iterator[Host]:
    """A host whose daemon has not run yet."""
    host = lab.host("e", start=False)
    try:
        yield host
    finally:
        lab.remove_host(host)


def test_a_host_without_wireguard_waits_and_says_what_to_install(by_process: None, unstarted: Host) -> None:
    # It does not end; otherwise whoever writes the network config could end the daemons of all such hosts.
    unstarted.launcher = ("env", "PATH=/usr/sbin:/sbin")
    unstarted.start(ready=False)
    eventually("it says so", lambda: "modprobe wireguard" in unstarted.log.read_text())
    assert "install wireguard-go" in unstarted.log.read_text()
    assert unstarted.runs()


def test_a_key_file_without_a_key_ends_the_daemon_with_an_explanation(unstarted: Host) -> None:
    (unstarted.state_dir / "wireguard.key").write_text("garbage\n")
    status, message = refusal(unstarted)
    assert (status, "wireguard.key" in message, "garbage" in message) == (2, True, False), message


def test_another_program_on_the_port_is_reported(unstarted: Host) -> None:
    def occupy() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", 51820))
        return made

    with namespaces.inside(unstarted.namespace, occupy):
        unstarted.start(ready=False)
        eventually("the daemon says so", lambda: "ss -ulpn 'sport = :51820'" in unstarted.log.read_text())
    eventually("and goes on once the port is free", lambda: unstarted.status().get("state") == "ready", timeout_s=30)


def test_the_network_config_changes_while_daemons_run(lab: Lab, a: Host, b: Host) -> None:
    lab.configure({"Type": "wireguard", "ListenPort": 4500, "MTU": 1400})
    try:
        for host in (a, b):
            eventually(f"{host.name} follows", lambda host=host: shown(host, "listen-port") == [["4500"]])  # type: ignore[misc]
        eventually("a reaches b by the new port", lambda: pings(a, b) and "PresharedKey" not in configured(a))
        # The files are written after the kernel was changed.
        eventually("containers are told the new MTU", lambda: a.mtu_bytes == 1320)
        assert lost_of_size(a, b, 1320) == "0 of 2"
    finally:
        lab.configure(CONFIG)
        eventually("a reaches b", lambda: PSK in configured(a) and PSK in configured(b) and pings(a, b))


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A dual-stack lab with hosts a and b."""
    with laboratory(tmp_path_factory.mktemp("dual"), {"Type": "wireguard"}, dual=True) as lab:
        lab.host("a"), lab.host("b")
        yield lab


@pytest.mark.parametrize(
    ("mode", "devices", "endpoints"),
    [
        ("separate", ["overlay-wg", "overlay-wg-v6"], {"198.18.1.2:51820", "[2001:2:0:1::2]:51821"}),
        ("auto", ["overlay-wg"], {"198.18.1.2:51820"}),
        ("ipv6", ["overlay-wg"], {"[2001:2:0:1::2]:51820"}),
        ("ipv4", ["overlay-wg"], {"198.18.1.2:51820"}),
    ],
)
def test_both_families_travel_in_every_mode(dual: Lab, mode: str, devices: list[str], endpoints: set[str]) -> None:
    a, b = dual.hosts
    dual.configure({"Type": "wireguard", "Mode": mode})

    def told(host: Host) -> list[list[str]]:
        return [line.split() for line in host.run("wg", "show", "all", "endpoints").splitlines()]

    for host in (a, b):
        eventually(
            f"{host.name} follows",
            lambda host=host: [words[0] for words in sorted(told(host))] == devices,  # type: ignore[misc]
        )
    eventually("a's peers are where they should be", lambda: {words[2] for words in told(a)} == endpoints)
    for one, other in ((a, b), (b, a)):
        eventually("over IPv4", lambda one=one, other=other: pings(one, other))  # type: ignore[misc]
        eventually("over IPv6", lambda one=one, other=other: pings6(one, other))  # type: ignore[misc]
    for address in (None, b.container_address6):
        assert lost_of_size(a, b, 1420, address=address) == "0 of 2"
        assert lost_of_size(a, b, 1421, address=address) == "2 of 2"
    if not wireguard_devices.in_kernel():
        assert len(carriers(a)) == len(devices)


def test_a_host_made_from_anothers_image_gets_a_key_of_its_own(lab: Lab, a: Host) -> None:
    clone = lab.host("clone", start=False)
    try:
        before = shown(a, "public-key")
        for name in ("wireguard.key", "lease.json"):
            shutil.copy2(a.state_dir / name, clone.state_dir)
        clone.start()
        clone.start_container()
        assert clone.subnet != a.subnet
        assert shown(clone, "public-key") != before == shown(a, "public-key")
        said = clone.log.read_text()
        assert "another, older host has the same WireGuard key" in said
        assert str(a.address) in said
        eventually("packets go", lambda: pings(a, clone) and pings(clone, a))
        key = (clone.state_dir / "wireguard.key").read_text()
        clone.stop()
        clone.start()
        assert (clone.state_dir / "wireguard.key").read_text() == key
    finally:
        lab.remove_host(clone)
