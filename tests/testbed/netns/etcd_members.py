"""An etcd of three members in a lab."""

from __future__ import annotations

from tests.testbed.etcd import Etcd
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import SWITCH_ADDRESS, UNDERLAY, Lab


def addresses(lab: Lab) -> list[str]:
    """Give the switch an address for each member, the last one of which it has already; all three."""
    hosts = [str(UNDERLAY[number]) for number in (252, 253, 254)]
    namespaces.ip(lab.switch, *(f"address add {host}/24 dev br0" for host in hosts if host != str(SWITCH_ADDRESS)))
    return hosts


def three_members(lab: Lab) -> None:
    """Start them, without TLS and users: for `laboratory`'s `arrange`."""
    lab.etcd = Etcd(lab.folder, hosts=addresses(lab), client_port=2379, inside=lab.inside)
    lab.etcd.start()
    lab.etcd_flags = {"etcd-endpoints": ",".join(lab.etcd.endpoints)}
