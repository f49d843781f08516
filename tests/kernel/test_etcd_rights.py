"""The rights that etcd-setup gives suffice for a daemon, and each of them is needed.

The tests use a real etcd with users, set up by the command itself, and real daemons.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from etcd_container import passwords, rights
from tests.testbed.netns.families import host_on, prefer
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.polling import eventually
from tests.unit.images.etcd_setup import COMMAND

BACKEND = {"Type": "vxlan"}
CONFIG, SUBNETS, HOSTS = (f"{rights.PREFIX}/{name}" for name in ("config", "subnets/", "hosts/"))
UNNOTICED = "two hosts with one address would not be noticed"


def set_up(lab: Lab) -> None:
    """Start etcd and run etcd-setup; the administrator writes the lab's network config."""
    lab.etcd.start()
    run_setup(lab)
    password = passwords.read(passwords.file_of(lab.folder / "secrets", "root"))
    assert password is not None
    lab.etcd.log_in("root", password)
    lab.etcd_flags = flags(lab, rights.admin())


def run_setup(lab: Lab) -> None:
    words = [f"--endpoints={lab.etcd.endpoints[0]}", str(lab.folder / "secrets")]
    argv = [*lab.inside, sys.executable, "-IB", str(COMMAND), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def flags(lab: Lab, user: str) -> dict[str, object]:
    return {
        "etcd-endpoints": lab.etcd.endpoints[0],
        "etcd-username": user,
        "etcd-password-file": passwords.file_of(lab.folder / "secrets", user),
    }


def as_admin(lab: Lab, host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of overlayd on a host with the administrator's login."""
    argv = [*host.overlayd(*words), *(f"--{name}={value}" for name, value in flags(lab, rights.admin()).items())]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=host.environment())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(tmp_path_factory.mktemp("rights"), BACKEND, arrange=set_up) as lab:
        lab.etcd_flags = flags(lab, rights.HOST)
        yield lab


@pytest.fixture(scope="module")
def a(lab: Lab) -> Host:
    return host_on(lab, "a", "10.5.20.0/24")


def without(lab: Lab, role: str, right: rights.Right, left: str | None = None) -> None:
    """Take a right away, or leave only its part `read` or `write`."""
    lab.etcd.ctl("role", "revoke-permission", role, *right.place())
    if left is not None:
        lab.etcd.ctl("role", "grant-permission", role, left, *right.place())


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """One more host, whose daemon does not run yet. After the test all rights are restored."""
    made = lab.host("b", start=False)
    # Each has an address of its own, and leaves its lease: one after the other.
    prefer(made, f"10.5.{100 + int(made.address) % 100}.0/24")
    yield made
    lab.remove_host(made)
    run_setup(lab)


def said(host: Host) -> str:
    return host.log.read_text(errors="replace")


def lease_id(lab: Lab, key: str) -> int:
    """The id of the etcd lease to which a key is attached."""
    return int(json.loads(lab.etcd.ctl("get", key, "--write-out=json"))["kvs"][0]["lease"])


def test_with_its_rights_a_host_leases_renews_follows_the_config_and_shows_its_presence(lab: Lab, a: Host) -> None:
    assert lab.etcd.ctl("get", "--keys-only", f"{SUBNETS}{str(a.subnet).replace('/', '-')}").strip()
    assert lab.etcd.ctl("get", "--keys-only", f"{HOSTS}{a.address}").strip()
    short = host_on(lab, "short", "10.5.21.0/24", lease_ttl_s=5)
    try:
        subnet, key = short.subnet, f"{SUBNETS}{str(short.subnet).replace('/', '-')}"
        eventually("a has the peer", lambda: str(subnet) in json.dumps(a.status()["peers"]))
        # The lease outlives its TTL; and it is written again after somebody deleted it.
        before, began = lease_id(lab, key), time.monotonic()
        eventually("its time is over", lambda: time.monotonic() > began + 6)
        assert lease_id(lab, key) == before
        lab.etcd.ctl("del", key)
        eventually("the lease is back", lambda: lab.etcd.ctl("get", "--keys-only", key).strip())
        for words in (("status",), ("check",), ("lease", "list"), ("config", "get")):
            done = short.call(*words)
            assert "denied" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
        assert short.status()["warnings"] == []
        assert "denied" not in said(short).lower()
        assert UNNOTICED not in said(short)
    finally:
        short.stop()
        lab.remove_host(short)


def test_a_host_cannot_write_the_config_and_the_administrator_can(lab: Lab, a: Host) -> None:
    config = json.dumps({"Network": "10.5.0.0/16", "Backend": {**BACKEND, "VNI": 7}})
    before = lab.etcd.ctl("get", CONFIG)
    refused = a.call("config", "set", config)
    assert (refused.returncode, "PERMISSION_DENIED" in refused.stderr) == (1, True), refused.stderr
    assert lab.etcd.ctl("get", CONFIG) == before
    done = as_admin(lab, a, "config", "set", config)
    assert done.returncode == 0, done.stderr
    eventually("a follows", lambda: a.status()["state"] == "ready" and "overlay.7" in a.run("ip", "-br", "link"))
    as_admin(lab, a, "config", "set", json.dumps({"Network": "10.5.0.0/16", "Backend": BACKEND}))


def test_the_administrator_reserves_and_releases_and_sees_who_lives(lab: Lab, a: Host) -> None:
    reserved = as_admin(lab, a, "lease", "reserve", "10.5.7.0/24", "--host=198.18.1.77")
    assert reserved.returncode == 0, reserved.stderr
    assert as_admin(lab, a, "lease", "release", "10.5.7.0/24").returncode == 0
    alive = as_admin(lab, a, "lease", "release", str(a.subnet))
    assert "is in use by" in alive.stderr


HOST_RIGHTS = dict(zip(("config", "subnets", "hosts"), rights.of(rights.PREFIX)[rights.HOST], strict=True))


@pytest.mark.parametrize(
    ("what", "left", "breaks"),
    [
        ("config", None, "PERMISSION_DENIED"),
        ("subnets", None, "PERMISSION_DENIED"),
        ("subnets", "write", "PERMISSION_DENIED"),
        ("subnets", "read", f"may not write below {SUBNETS.rstrip('/')}"),
    ],
)
def test_without_this_right_no_host_becomes_ready(
    lab: Lab, host: Host, what: str, left: str | None, breaks: str
) -> None:
    without(lab, rights.HOST, HOST_RIGHTS[what], left)
    host.start(ready=False)
    eventually("it says what it may not do", lambda: breaks in said(host), timeout_s=30)
    eventually("it waits", lambda: host.status()["state"] == "waiting")
    # Docker does not start without it. subnet.env is that of the previous lease.
    assert not (host.run_dir / "docker.env").exists()
    run_setup(lab)
    eventually("it goes on by itself", lambda: host.status()["state"] == "ready", timeout_s=90)


@pytest.mark.parametrize("left", [None, "read", "write"])
def test_without_this_right_two_hosts_with_one_address_are_not_noticed(lab: Lab, host: Host, left: str | None) -> None:
    without(lab, rights.HOST, HOST_RIGHTS["hosts"], left)
    host.start()
    assert UNNOTICED in said(host)
    assert not lab.etcd.ctl("get", "--keys-only", f"{HOSTS}{host.address}").strip()


ADMIN_RIGHTS = dict(zip(("config", "subnets", "hosts"), rights.of(rights.PREFIX)[rights.admin()], strict=True))
SET = ("config", "set", json.dumps({"Network": "10.5.0.0/16", "Backend": BACKEND}))


@pytest.mark.parametrize(
    ("what", "left", "words", "breaks"),
    [
        ("config", "read", SET, "PERMISSION_DENIED"),
        ("config", "write", ("config", "get"), "PERMISSION_DENIED"),
        ("subnets", "read", ("lease", "reserve", "10.5.7.0/24", "--host=198.18.1.77"), "PERMISSION_DENIED"),
        ("subnets", "write", SET, "PERMISSION_DENIED"),
        ("hosts", None, ("lease", "release", "{a}"), "is free"),
    ],
)
def test_without_this_right_a_command_of_the_administrator_goes_wrong(  # noqa: PLR0917
    lab: Lab, a: Host, host: Host, what: str, left: str | None, words: tuple[str, ...], breaks: str
) -> None:
    without(lab, rights.admin(), ADMIN_RIGHTS[what], left)
    done = as_admin(lab, a, *(word.replace("{a}", str(a.subnet)) for word in words))
    # Without the right, the last command is not refused, though the host runs.
    assert breaks in done.stdout + done.stderr, done.stdout + done.stderr
