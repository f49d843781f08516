"""Whoever owns the underlay, networkd or NetworkManager, and whatever it does: the overlay stays, or is back soon.

The owners are Debian's own, on two machines. Host a is the one to which things happen, host b sends and counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.owners import Networkd, NetworkManager, Owner, dhcp_server
from tests.testbed.cluster.recovery import BACK_WITHIN_S, answers, machines_of, recovers, untouched
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.virtual_machine import mac
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

pytestmark = pytest.mark.slow

DEVICE = "overlay.1"
LEASED, LEASED_ANEW = 101, 102


def published(site: ClusterSite, subnet: str) -> IPv4Address:
    """The address that the other hosts find in etcd for a subnet."""
    key = f"{site.cluster.prefix}/subnets/{subnet.replace('/', '-')}"
    return IPv4Address(json.loads(site.etcdctl("get", "--print-value-only", key))["PublicIP"])


@pytest.fixture(scope="module")
def chosen(owned: ClusterSite) -> ClusterSite:
    """The two machines; on the first overlayd chooses its address itself, as its settings name none."""
    owned.hosts[0].shell("sed -i /PUBLIC_IP/d /etc/sysconfig/overlayd && systemctl restart overlayd")
    return owned


@pytest.fixture(scope="module", params=[Networkd, NetworkManager], ids=lambda kind: kind.service)
def owner(request: pytest.FixtureRequest, chosen: ClusterSite) -> Iterator[Owner]:
    """The owner of host a's underlay, with the host's own address."""
    host = chosen.hosts[0]
    found: Owner = request.param(device_of(host), chosen.cluster.underlay)
    found.take_over(host, host.address)
    yield found
    Networkd(found.device, found.underlay).take_over(host, host.address)


def device_of(machine: Machine) -> str:
    """The name of the underlay's interface."""
    found = json.loads(machine.run("ip", "-json", "-4", "address", "show", "to", f"{machine.address}/32"))
    return str(found[0]["ifname"])


def test_the_owner_says_that_it_leaves_our_devices_alone(chosen: ClusterSite, owner: Owner) -> None:
    assert owner.unmanaged(chosen.hosts[0], DEVICE)
    assert not owner.unmanaged(chosen.hosts[0], owner.device)


def test_packets_go_on_when_the_owner_reads_its_configuration_again(
    chosen: ClusterSite, owner: Owner, record_property: Recorder
) -> None:
    with recovers(f"{owner.service}: reload", chosen, record_property):
        owner.reload(chosen.hosts[0])


def test_packets_go_on_when_the_owner_is_restarted(
    chosen: ClusterSite, owner: Owner, record_property: Recorder
) -> None:
    with recovers(f"{owner.service}: restart", chosen, record_property):
        chosen.hosts[0].run("systemctl", "restart", owner.service)


def test_packets_go_again_when_the_link_was_down(chosen: ClusterSite, owner: Owner, record_property: Recorder) -> None:
    host = chosen.hosts[0]
    with recovers(f"{owner.service}: link down for 3 s", chosen, record_property):
        # The kernel drops the device's routes; who owns it gives them again.
        script = f"ip link set {owner.device} down; sleep 3; ip link set {owner.device} up"
        host.run("systemd-run", "--quiet", "--collect", "--no-block", "sh", "-c", script)
        eventually("the link is down", lambda: not _reachable(chosen), timeout_s=BACK_WITHIN_S)
        eventually("the link is up", lambda: _reachable(chosen), timeout_s=BACK_WITHIN_S)


def test_an_address_of_dhcp_and_a_new_one_are_published_and_the_lease_keeps_its_subnet(
    chosen: ClusterSite, owner: Owner, record_property: Recorder
) -> None:
    a, b = machines_of(chosen)
    subnet = str(a.bip().network)
    leased, anew = (chosen.cluster.underlay[number] for number in (LEASED, LEASED_ANEW))
    assert published(chosen, subnet) == a.address
    device = device_of(b)
    with (
        dhcp_server(b, owner, device, mac(a.address), leased),
        recovers(f"{owner.service}: first DHCP lease", chosen, record_property, at=leased),
    ):
        owner.use_dhcp(a)
        _published(chosen, subnet, leased)
    moved = a.at(leased)
    with dhcp_server(b, owner, device, mac(a.address), anew):
        before = untouched(moved)
        owner.renew(moved)
        _published(chosen, subnet, anew)
    moved = a.at(anew)
    address = moved.probe_address()
    eventually("packets go", lambda: answers(b, address), timeout_s=BACK_WITHIN_S)
    assert untouched(moved) == before
    owner.give_address(moved, a.address)
    _published(chosen, subnet, a.address)
    eventually("packets go", lambda: answers(b, address), timeout_s=BACK_WITHIN_S)
    eventually("a is at its own address", lambda: a.succeeds("true"), timeout_s=a.patience_s)
    assert untouched(a) == before


def _published(site: ClusterSite, subnet: str, address: IPv4Address) -> None:
    eventually(f"{address} is published", lambda: published(site, subnet) == address, timeout_s=BACK_WITHIN_S)


def _reachable(site: ClusterSite) -> bool:
    a, b = machines_of(site)
    return b.succeeds("ping", "-n", "-q", "-c", "1", "-W", "1", str(a.address))
