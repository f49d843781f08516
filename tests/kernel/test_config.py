"""The network config changes while daemons run, and every host follows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of this file's own, which starts with vxlan."""
    with laboratory(tmp_path_factory.mktemp("config"), {"Type": "vxlan"}) as lab:
        for name in ("a", "b"):
            lab.host(name)
        yield lab


def test_keys_that_no_host_reads_are_refused_when_written_and_reported_when_read(lab: Lab, a: Host) -> None:
    config = '{"Network": "10.5.0.0/16", "Owner": "net", "Backend": {"Type": "vxlan", "Comment": "do not touch"}}'
    done = a.call("config", "set", config)
    assert (done.returncode, "'Owner' is not a key" in done.stderr, "known: Network" in done.stderr) == (2, True, True)
    pid = a.status()["pid"]
    assert a.call("config", "set", "--force", config).returncode == 0
    eventually("a says so", lambda: "no key 'Comment'" in str(a.status()["warnings"]))
    eventually("a is ready with it", lambda: a.status()["state"] == "ready")
    assert (a.status()["pid"], a.status()["problems"]) == (pid, [])
    assert "warning: 'Owner' is not a key" in a.call("check").stdout
    lab.configure({"Type": "vxlan", "Comment": "do not touch"}, "--force")
    eventually("a says no more than is there", lambda: "'Owner'" not in str(a.status()["warnings"]))
    lab.configure({"Type": "vxlan"})
    eventually("it is gone", lambda: "Comment" not in str(a.status()["warnings"]))


def follows(host: Host, backend: str, devices: list[str]) -> bool:
    """Whether a host's status names that backend and a peer with it, and whether it has exactly these devices."""
    status = host.status()
    links = [line.split()[0].split("@")[0] for line in host.run("ip", "-br", "link").splitlines()]
    return bool(
        [name for name in links if name.startswith("overlay")] == devices
        and status["backend"] == backend
        and status["state"] == "ready"
        and [peer["backend"] for peer in status["peers"] if peer["problem"] is None] == [backend]
    )


@pytest.mark.parametrize(
    ("config", "devices", "route"),
    [
        ({"Type": "vxlan", "VNI": 9, "Port": 4789}, ["overlay.9"], "onlink"),
        ({"Type": "vxlan", "DirectRouting": True}, ["overlay.1"], "via 198.18.1."),
        ({"Type": "udp"}, ["overlay0"], "dev overlay0"),
        ({"Type": "host-gw"}, [], "dev eth0"),
    ],
    ids=["another-vni", "direct-routing", "udp", "host-gw"],
)
def test_every_host_follows_and_keeps_its_subnet(
    lab: Lab, config: dict[str, Any], devices: list[str], route: str
) -> None:
    a, b = lab.hosts
    subnets = [host.subnet for host in lab.hosts]
    lab.configure(config)
    for host in lab.hosts:
        eventually(f"{host.name} follows", partial(follows, host, config["Type"], devices), timeout_s=30)
    eventually("a reaches b", lambda: pings(a, b))
    eventually("b reaches a", lambda: pings(b, a))
    assert [host.subnet for host in lab.hosts] == subnets
    for host in lab.hosts:
        (found,) = host.run("ip", "route", "show", "proto", "157").splitlines()
        assert route in found
        assert "overlay.1 " not in host.run("iptables-save") or "overlay.1" in devices
