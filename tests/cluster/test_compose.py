"""compose/compose.yaml, started as a user starts it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.testbed.cluster.composing import Composed
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.measure import ping
from tests.testbed.cluster.parallel import each
from tests.testbed.cluster.steps import leases, probe_image, probes
from tests.testbed.polling import eventually

_UNDERLAY = "198.18.41"
_HOSTS = {"host1": 11, "host2": 12, "host3": 13}


@pytest.fixture
def composed(base: str) -> Iterator[dict[str, Machine]]:
    """The hosts that compose started."""
    cluster = Composed(file="compose.yaml", project="overlayd-test-compose", underlay=_UNDERLAY, base=base)
    try:
        cluster.run("up", "--detach")
        yield {
            name: Machine(name, IPv4Address(f"{_UNDERLAY}.{number}"), cluster.container(name))
            for name, number in _HOSTS.items()
        }
    finally:
        cluster.remove()


def test_compose_starts_hosts_whose_containers_reach_each_other(composed: dict[str, Machine]) -> None:
    each(leases.wait_for, composed.values())

    def start(machine: Machine) -> None:
        probes.start_one(machine, probe_image.load(machine))

    first, second = composed["host1"], composed["host2"]
    each(start, (first, second))
    addresses = {machine.name: machine.probe_address() for machine in (first, second)}
    eventually("host1 reaches host2", lambda: ping(first.in_probe, addresses["host2"], count=3).lost == 0, timeout_s=15)
    assert ping(second.in_probe, addresses["host1"], count=3).lost == 0


def test_docker_inspect_shows_no_secret_and_each_secret_is_only_where_it_is_needed(
    composed: dict[str, Machine],
) -> None:
    host = composed["host1"]
    leases.wait_for(host)
    assert sorted(host.run("ls", "/etc/overlayd").split()) == ["ca.pem", "etcd-password"]
    assert host.run("stat", "--format=%a %U", "/etc/overlayd/etcd-password").strip() == "600 root"
    password = host.run("cat", "/etc/overlayd/etcd-password").strip()
    assert len(password) > 40
    host.container.reload()
    assert password not in json.dumps(host.container.attrs)
    assert password not in host.shell("journalctl --no-pager --unit=overlayd; cat /run/overlayd/*; ps -ef")
    # Without a login nothing can be read; a host cannot write the network config.
    flags = f"--config-file=/dev/null --etcd-endpoints=https://{_UNDERLAY}.2:2379 --etcd-cafile=/etc/overlayd/ca.pem"
    anybody = host.shell(f"env -i PATH=$PATH overlayd config get {flags} 2>&1 || true")
    assert "etcd wants a login" in anybody
    before = host.run("overlayd", "config", "get")
    refused = host.shell("""overlayd config set '{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}' 2>&1 || true""")
    assert "PERMISSION_DENIED" in refused
    assert host.run("overlayd", "config", "get") == before
