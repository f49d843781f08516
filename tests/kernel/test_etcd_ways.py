"""How hosts reach etcd: by a name, with a web proxy in the environment, and with an etcd that has no room.

There is one lab with one etcd. `ip netns exec` mounts a host's files of /etc/netns over those in /etc.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.testbed.etcd import Etcd
from tests.testbed.netns.lab import SWITCH_ADDRESS, UNDERLAY, UNDERLAY6, Host, Lab, laboratory
from tests.testbed.polling import eventually

BACKEND = {"Type": "vxlan"}
NOBODY, NOBODY6 = UNDERLAY[253], UNDERLAY6[253]
# The name is resolved at once; the rest is the start of the program.
AT_ONCE_S = 4.0


def with_little_room(lab: Lab) -> None:
    lab.etcd = Etcd(
        lab.folder,
        hosts=[str(SWITCH_ADDRESS)],
        client_port=2379,
        inside=lab.inside,
        flags=["--quota-backend-bytes=1000000"],
    )
    lab.etcd.start()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(tmp_path_factory.mktemp("ways"), BACKEND, arrange=with_little_room) as lab:
        yield lab


@pytest.fixture(scope="module")
def a(lab: Lab) -> Host:
    return lab.host("a", start=False)


@pytest.fixture
def etc(a: Host) -> Iterator[Path]:
    """The host's own files in /etc, with a DNS server that does not exist."""
    folder = Path("/etc/netns") / a.namespace
    folder.mkdir(parents=True)
    (folder / "resolv.conf").write_text(f"nameserver {NOBODY}\n")
    a.settings["etcd-endpoints"] = "http://etcd.bugs:2379"
    yield folder
    del a.settings["etcd-endpoints"]
    shutil.rmtree(folder)


def hosts(etc: Path, *addresses: object) -> None:
    (etc / "hosts").write_text(
        "".join(f"{one} {name}\n" for one, name in [("127.0.0.1", "localhost"), *named(addresses)])
    )


def named(addresses: tuple[object, ...]) -> list[tuple[object, str]]:
    return [(one, "etcd.bugs") for one in addresses]


def config_get(host: Host, *, variables: Mapping[str, str] | None = None) -> tuple[str, float]:
    """The output of `config get` on that host, and how long it takes in seconds."""
    argv = host.overlayd("config", "get")
    began = time.monotonic()
    done = subprocess.run(
        argv, capture_output=True, text=True, env={**host.environment(), **(variables or {})}, check=False, timeout=60
    )
    return done.stdout + done.stderr, time.monotonic() - began


def test_a_name_in_the_hosts_file_is_known_at_once_while_dns_is_silent(a: Host, etc: Path) -> None:
    hosts(etc, SWITCH_ADDRESS)
    said, took_s = config_get(a)
    assert '"Network"' in said
    assert took_s < AT_ONCE_S


@pytest.mark.parametrize("dead", [NOBODY, NOBODY6], ids=["IPv4", "IPv6"])
def test_one_dead_address_of_a_name_with_several_does_not_matter(a: Host, etc: Path, dead: object) -> None:
    hosts(etc, dead, SWITCH_ADDRESS)
    said, _took_s = config_get(a)
    assert '"Network"' in said


def test_a_name_that_nobody_knows_is_named(a: Host, etc: Path) -> None:
    hosts(etc)
    said, _took_s = config_get(a)
    assert "etcd.bugs: " in said
    assert "getent ahosts" in said


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "GRPC_PROXY"])
def test_a_web_proxy_is_not_used_for_etcd(a: Host, name: str) -> None:
    said, _took_s = config_get(a, variables={name: f"http://{NOBODY}:3128"})
    assert '"Network"' in said


def test_a_daemon_with_a_name_in_the_hosts_file_and_a_proxy_gets_ready(lab: Lab, etc: Path, a: Host) -> None:
    hosts(etc, SWITCH_ADDRESS)
    a.launcher = ("env", f"http_proxy=http://{NOBODY}:3128")
    a.start()
    try:
        assert lab.etcd.ctl("get", "--keys-only", f"/coreos.com/network/subnets/{str(a.subnet).replace('/', '-')}")
    finally:
        a.stop()


def fill(lab: Lab) -> None:
    """Write until etcd refuses and raises the alarm NOSPACE."""
    for _number in range(200):
        if "NOSPACE" in lab.etcd.ctl("alarm", "list"):
            return
        with contextlib.suppress(AssertionError):
            lab.etcd.ctl("put", "/filler", stdin="x" * 100_000)
    raise AssertionError("etcd takes more than it may")


def make_room(lab: Lab) -> None:
    lab.etcd.compact()
    lab.etcd.ctl("defrag")
    lab.etcd.ctl("alarm", "disarm")


def test_an_etcd_without_room_keeps_no_restarted_host_waiting(lab: Lab, a: Host) -> None:
    a.start()
    before, presence = a.subnet, f"/coreos.com/network/hosts/{a.address}"
    a.stop()
    b = lab.host("b", start=False)
    fill(lab)
    try:
        a.start()
        assert a.subnet == before
        # A new host cannot get a lease. Both logs and doctor say what to do.
        b.start(ready=False)
        eventually("b waits", lambda: b.status().get("state") == "waiting")
        for said in (a.log.read_text(), b.log.read_text()):
            assert "etcdctl compact" in said
            assert "etcdctl alarm disarm" in said
        told = b.call("doctor").stdout
        assert "no room (alarm NOSPACE)" in told
        assert "etcdctl alarm disarm" in told
        assert "systemctl start overlayd" not in told
        assert not lab.etcd.ctl("get", "--keys-only", presence)
    finally:
        make_room(lab)
    eventually("a says that it lives", lambda: lab.etcd.ctl("get", "--keys-only", presence))
    eventually("b is served", lambda: b.status()["state"] == "ready")
    a.stop()
