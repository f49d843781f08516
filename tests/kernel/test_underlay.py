"""The underlay changes under a running daemon."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network
from typing import Any

import pytest

from overlayd.errors import ConfigError
from overlayd.underlay.choose import Underlay, choose
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import UNDERLAY, Host, Lab, laboratory
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

BACKENDS: dict[str, dict[str, Any]] = {"vxlan": {"Type": "vxlan"}, "host-gw": {"Type": "host-gw"}}


@pytest.fixture(scope="module", params=list(BACKENDS))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with hosts a and b."""
    with laboratory(tmp_path_factory.mktemp(f"underlay-{request.param}"), BACKENDS[request.param]) as lab:
        a, b = lab.host("a"), lab.host("b")
        eventually("b is reachable from a", lambda: pings(a, b))
        yield lab


def both_ways(a: Host, b: Host) -> bool:
    return pings(a, b) and pings(b, a)


def test_a_renamed_interface_is_followed(a: Host, b: Host) -> None:
    for old, new in (("eth0", "uplink"), ("uplink", "eth0")):
        a.run("ip", "link", "set", old, "name", new)
        eventually(f"a says {new}", lambda new=new: a.status()["ifname"] == new)  # type: ignore[misc]
        eventually("packets flow both ways", partial(both_ways, a, b))


def test_a_changed_address_is_published_and_the_subnet_kept(lab: Lab, a: Host, b: Host) -> None:
    before, other = a.subnet, UNDERLAY[100]
    for old, new in ((a.address, other), (other, a.address)):
        a.run("ip", "address", "delete", f"{old}/24", "dev", "eth0")
        a.run("ip", "address", "add", f"{new}/24", "dev", "eth0")
        a.run("ip", "route", "replace", "default", "via", str(UNDERLAY[254]))
        eventually(f"b knows {new}", lambda new=new: published(b) == {str(before): str(new)})  # type: ignore[misc]
        eventually("packets flow both ways", partial(both_ways, a, b))
    assert a.subnet == before
    assert not a.status()["problems"]


def published(host: Host) -> dict[str, str]:
    """The peers that a host knows: public addresses by subnet."""
    return {peer["subnet"]: peer["public_ip"] for peer in host.status()["peers"]}


def test_a_daemon_waits_until_its_interface_has_an_address(a: Host, b: Host) -> None:
    a.run("ip", "address", "delete", f"{a.address}/24", "dev", "eth0")
    eventually("a says so", lambda: "no IPv4 address any more" in str(a.status()["problems"]))
    a.run("ip", "address", "add", f"{a.address}/24", "dev", "eth0")
    a.run("ip", "route", "replace", "default", "via", str(UNDERLAY[254]))
    eventually("a is content again", lambda: a.status()["problems"] == [])
    eventually("packets flow both ways", partial(both_ways, a, b))


def test_an_overlay_too_narrow_for_ipv6_is_served(a: Host, b: Host) -> None:
    """With an MTU below 1280 the kernel removes IPv6 and its settings from a device; they return with a larger one."""
    before = a.mtu_bytes
    a.stop()
    a.cleanup()
    a.run("ip", "link", "set", "eth0", "mtu", "1300")
    a.start()
    assert a.mtu_bytes == before - 200
    eventually("packets go", lambda: both_ways(a, b))
    a.run("ip", "link", "set", "eth0", "mtu", "1500")
    eventually("the MTU is as before", lambda: a.mtu_bytes == before)
    closed = "cat /proc/sys/net/ipv6/conf/overlay.*/accept_ra || echo 0"
    eventually("nobody is obeyed", lambda: a.run("sh", "-c", closed).strip() == "0")


def test_a_changed_mtu_of_the_underlay_is_written_to_the_files(a: Host, b: Host) -> None:
    before = a.mtu_bytes
    a.run("ip", "link", "set", "eth0", "mtu", "1400")
    eventually("the MTU is in subnet.env", lambda: a.mtu_bytes == before - 100)
    a.run("ip", "link", "set", "eth0", "mtu", "1500")
    eventually("and back", lambda: a.mtu_bytes == before)
    eventually("packets flow both ways", partial(both_ways, a, b))


def test_no_bridge_of_containers_and_no_device_of_ours_is_an_underlay() -> None:
    """They exist before the underlay interface, as when a bond, a VLAN or a card is added later."""
    here, inside = namespaces.unique("where"), namespaces.unique("inner")
    try:
        namespaces.make(here)
        namespaces.make(inside)
        namespaces.ip(
            here,
            "link add docker0 type bridge",
            "link add br-0123456789ab type bridge",
            "link add named type bridge",
            f"link add vethc type veth peer name eth0 netns {inside}",
            "link set vethc master named up",
            "link add empty type bridge",
            "link add overlay.1 type vxlan id 2 dstport 8473 local 198.18.1.1",
            "link set overlay.1 alias overlayd",
            "link set overlay.1 name bond7",
            "link add flannel.1 type vxlan id 1 dstport 8472 local 198.18.1.1",
            "link add br0 type bridge",
            "link add wire type vxlan id 3 dstport 8474 local 198.18.1.1",
            "link set wire master br0",
        )
        namespaces.ip(inside, "link set eth0 up")
        carried = ("docker0", "br-0123456789ab", "named", "empty", "bond7", "flannel.1")
        for number, name in enumerate((*carried, "br0"), start=1):
            namespaces.ip(here, f"address add 198.18.{number}.1/24 dev {name}", f"link set {name} up")

        def chosen(*, iface: tuple[str, ...] = (), regex: str = r"^198\.18\.", held: str = "198.18.4.0/24") -> Underlay:
            return namespaces.inside(
                here,
                lambda: choose(
                    ifaces=iface,
                    iface_regexes=(regex,),
                    can_reach=None,
                    public_ip=None,
                    public_ipv6=None,
                    held=[IPv4Network(held)],
                ),
            )

        assert chosen().ifname == "br0"
        for name in carried:
            with pytest.raises(ConfigError, match=f"{name} cannot be the underlay"):
                chosen(iface=(name,))
        # The host's own uplink may be a veth.
        namespaces.ip(here, "route add default via 198.18.3.254 dev named")
        assert chosen(iface=("named",)).ifname == "named"
        # A bridge without a port may be an underlay, unless it has an address of this host's previous subnet.
        assert chosen(iface=("empty",), held="10.5.7.0/24").ifname == "empty"
    finally:
        namespaces.remove(here)
        namespaces.remove(inside)
