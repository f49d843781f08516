"""Bad input to a real daemon: it waits where the input can still become good, ends where it cannot, and says which."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from tests.testbed.netns.lab import ETCD, Host, Lab, environment, laboratory
from tests.testbed.polling import eventually

PREFIX = "/coreos.com/network"
GOOD = {"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a good network config in etcd, and no host yet."""
    with laboratory(tmp_path_factory.mktemp("refusals"), {"Type": "host-gw"}) as lab:
        yield lab


def write(lab: Lab, key: str, value: str) -> None:
    """Write a key into etcd without any check, as another tool does."""
    lab.etcdctl("put", f"{PREFIX}/{key}", value)


def waits_for(host: Host, words: str) -> bool:
    status = host.status()
    return status.get("state") == "waiting" and words in (status.get("problem") or "")


def is_ready(host: Host) -> bool:
    return host.status().get("state") == "ready"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is not JSON"),
        ('{"Network": "10.5.0.0/29"}', "too small"),
        ('{"Network": "10.5.0.0/16", "Backend": {"Type": "gre"}}', "Backend Type is 'gre'"),
        ('{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": "x"}}', "VNI"),
    ],
    ids=["malformed", "too-small", "unknown-backend", "bad-value"],
)
def test_a_daemon_waits_until_a_bad_network_config_is_corrected(lab: Lab, config: str, words: str) -> None:
    write(lab, "config", config)
    host = lab.host("a", start=False)
    host.start(ready=False)
    eventually("the daemon says what it waits for", partial(waits_for, host, words))
    assert not (host.run_dir / "docker.env").exists()
    write(lab, "config", json.dumps(GOOD))
    eventually("the daemon goes on once it is mended", partial(is_ready, host), timeout_s=30)


def test_a_daemon_waits_for_an_etcd_that_does_not_answer(lab: Lab) -> None:
    lab.stop_etcd()
    host = lab.host("a", start=False)
    host.start(ready=False)
    eventually("the daemon says what it waits for", partial(waits_for, host, ETCD))
    lab.start_etcd()
    eventually("the daemon goes on once etcd answers", partial(is_ready, host), timeout_s=30)


def test_a_network_config_that_turns_bad_changes_nothing_on_a_running_host(lab: Lab) -> None:
    host = lab.host("a")
    write(lab, "config", "{")
    eventually("the daemon says so", lambda: "is not JSON" in (host.status()["problem"] or ""))
    assert host.status()["state"] == "ready"
    write(lab, "config", json.dumps(GOOD))
    eventually("and is content again", lambda: host.status()["problem"] is None)


def test_malformed_keys_of_others_are_reported_and_skipped(lab: Lab) -> None:
    write(lab, "subnets/10.5.9.0-24", '{"PublicIP": 7}')
    write(lab, "subnets/0.0.0.0-0", '{"PublicIP": "198.18.1.9", "BackendType": "host-gw"}')
    host = lab.host("a")
    assert dict(host.status()["skipped"]).keys() == {"10.5.9.0-24"}
    (stranger,) = host.status()["peers"]
    assert stranger["problem"] is not None
    assert host.run("ip", "route", "show", "default").startswith("default via")


def refused(host: Host, argv: list[str]) -> tuple[int, str]:
    """Exit status and message of a daemon that has to end by itself."""
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=30, check=False)
    return done.returncode, done.stderr


def test_a_kernel_without_tun_devices_waits_and_says_what_helps(lab: Lab) -> None:
    lab.configure({"Type": "udp"})
    host = lab.host("a", start=False)
    # It does not end; otherwise whoever writes the network config could end the daemons of all such hosts.
    host.launcher = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    host.start(ready=False)
    eventually("it says so", lambda: "modprobe tun" in host.log.read_text())
    assert host.runs()
    assert host.stop() == 0


def test_a_missing_interface_ends_the_daemon_and_the_error_lists_the_existing_ones(lab: Lab) -> None:
    host = lab.host("a", start=False)
    argv = [word for word in host.overlayd("run") if not word.startswith("--iface")]
    status, message = refused(host, [*argv, "--iface=nope0"])
    assert (status, "nope0" in message, "eth0" in message) == (2, True, True), message


def test_without_root_the_daemon_ends_with_an_explanation(lab: Lab) -> None:
    host = lab.host("a", start=False)
    enter, program = host.overlayd("run")[:4], host.overlayd("run")[4:]
    status, message = refused(host, [*enter, "setpriv", "--reuid=65534", "--clear-groups", *program])
    assert (status, "as root" in message) == (4, True), message


def test_a_second_daemon_on_one_host_is_refused(lab: Lab) -> None:
    host = lab.host("a")
    status, message = refused(host, host.overlayd("run"))
    assert (status, "another overlayd" in message) == (5, True), message
    assert is_ready(host)
