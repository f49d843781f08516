"""The wireguard backend: config, keys and leases in, desired state out."""

from __future__ import annotations

import base64
import logging
import os
import re
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from overlayd.backends import keyfile
from overlayd.backends.claims import Claim, Claims
from overlayd.backends.environment import Environment
from overlayd.backends.wireguard import Wireguard
from overlayd.backends.x25519 import public_key
from overlayd.errors import ConfigError, NetworkConfigError
from overlayd.kernel.state import Address, Link, Route, WireguardLink, WireguardPeer
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.underlay.choose import Underlay, UnderlayEndpoint

V4 = parse_network_config('{"Network": "10.5.0.0/16"}')
V6 = parse_network_config('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd42::/48"}')
DUAL = parse_network_config('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd42::/48"}')
PSK = base64.b64encode(b"\x07" * 32).decode()
UNDERLAY = Underlay(
    ifname="eth0",
    ifindex=2,
    mtu_bytes=1500,
    reason="iface eth0",
    v4=UnderlayEndpoint(address=IPv4Address("198.18.1.1"), public_ip=IPv4Address("198.18.1.1")),
    v6=UnderlayEndpoint(address=IPv6Address("2001:db8:1::1"), public_ip=IPv6Address("2001:db8:1::1")),
)


def key(number: int) -> str:
    """The public key of the host of that number."""
    return base64.b64encode(bytes([number]) * 32).decode()


def leg4(number: int, *, address: str | None = None, **data: Any) -> FamilyLease:
    published = {"PublicKey": key(number), **data}
    return FamilyLease(
        subnet=IPv4Network(f"10.5.{number}.0/24"),
        public_ip=IPv4Address(address or f"198.18.1.{number}"),
        data=published,
    )


def leg6(number: int, *, address: str | None = None, **data: Any) -> FamilyLease:
    published = {"PublicKey": key(number), **data}
    return FamilyLease(
        subnet=IPv6Network(f"fd42:0:0:{number}::/64"),
        public_ip=IPv6Address(address or f"2001:db8:1::{number}"),
        data=published,
    )


def lease(v4: FamilyLease | None = None, v6: FamilyLease | None = None) -> Lease:
    return Lease(v4=v4, v6=v6, backend_type="wireguard")


OWN = lease(leg4(1), leg6(1))


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where the daemon keeps what outlives a reboot; not made yet."""
    return tmp_path / "state"


def backend(state_dir: Path, network: NetworkConfig = DUAL, **config: Any) -> Wireguard:
    return Wireguard.from_config(config, Environment(network=network, underlay=UNDERLAY, state_dir=state_dir))


def texts(found: Wireguard, *peers: Lease, own: Lease = OWN) -> set[str]:
    """The whole plan as text, less what every backend sets."""
    plan = found.plan(own, peers)
    assert plan.problems == {}
    state = plan.state()
    return {str(one) for one in state.all_of(Link, Address, Route, WireguardPeer)}


def problem(found: Wireguard, *peers: Lease) -> str:
    """Why the one peer that is refused is."""
    (text,) = found.plan(OWN, peers).problems.values()
    return text


def test_each_family_has_a_device_of_its_own(state_dir: Path) -> None:
    assert texts(backend(state_dir), lease(leg4(2), leg6(2))) == {
        "overlay-wg wireguard listen-port 51820",
        "overlay-wg-v6 wireguard listen-port 51821",
        "10.5.1.0/32 dev overlay-wg",
        "fd42:0:0:1::/128 dev overlay-wg-v6",
        "10.5.0.0/16 dev overlay-wg",
        "fd42::/48 dev overlay-wg-v6",
        f"{key(2)} dev overlay-wg endpoint 198.18.1.2:51820 allowed-ips 10.5.2.0/24",
        f"{key(2)} dev overlay-wg-v6 endpoint [2001:db8:1::2]:51821 allowed-ips fd42:0:0:2::/64",
    }
    assert backend(state_dir).devices == ("overlay-wg", "overlay-wg-v6")


@pytest.mark.parametrize(
    ("mode", "endpoint"),
    [("auto", "198.18.1.2:4500"), ("ipv4", "198.18.1.2:4500"), ("ipv6", "[2001:db8:1::2]:4500")],
)
def test_the_other_modes_have_one_device_for_both(state_dir: Path, mode: str, endpoint: str) -> None:
    assert texts(backend(state_dir, Mode=mode, ListenPort=4500), lease(leg4(2), leg6(2))) == {
        "overlay-wg wireguard listen-port 4500",
        "10.5.1.0/32 dev overlay-wg",
        "fd42:0:0:1::/128 dev overlay-wg",
        "10.5.0.0/16 dev overlay-wg",
        "fd42::/48 dev overlay-wg",
        f"{key(2)} dev overlay-wg endpoint {endpoint} allowed-ips 10.5.2.0/24,fd42:0:0:2::/64",
    }


@pytest.mark.parametrize("mode", ["separate", "auto", "ipv6"])
def test_a_network_of_ipv6_alone(state_dir: Path, mode: str) -> None:
    found = backend(state_dir, V6, Mode=mode)
    device, port = ("overlay-wg-v6", 51821) if mode == "separate" else ("overlay-wg", 51820)
    assert found.devices == (device,)
    assert texts(found, lease(v6=leg6(2)), own=lease(v6=leg6(1))) == {
        f"{device} wireguard listen-port {port}",
        f"fd42:0:0:1::/128 dev {device}",
        f"fd42::/48 dev {device}",
        f"{key(2)} dev {device} endpoint [2001:db8:1::2]:{port} allowed-ips fd42:0:0:2::/64",
    }


@pytest.mark.parametrize(
    ("address", "address6", "met"),
    [
        ("203.0.113.2", "2001:db8:1::2", "203.0.113.2"),
        ("10.0.0.2", "2001:db8:1::2", "[2001:db8:1::2]"),
        ("172.16.0.2", "fd00::2", "172.16.0.2"),
    ],
    ids=["public-ipv4", "public-ipv6-only", "neither"],
)
def test_auto_meets_a_peer_where_it_can_be_met(state_dir: Path, address: str, address6: str, met: str) -> None:
    (found,) = (
        backend(state_dir, Mode="auto")
        .plan(OWN, [lease(leg4(2, address=address), leg6(2, address=address6))])
        .state()
        .all_of(WireguardPeer)
    )
    assert f"endpoint {met}:51820 " in str(found)


def test_a_peer_with_one_family_is_served_by_that(state_dir: Path) -> None:
    for mode in ("separate", "auto"):
        (found,) = backend(state_dir, Mode=mode).plan(OWN, [lease(leg4(2))]).state().all_of(WireguardPeer)
        assert found.allowed_ips == {IPv4Network("10.5.2.0/24")}


def test_every_key_of_the_config_reaches_the_devices(state_dir: Path) -> None:
    found = backend(state_dir, psk=PSK, persistentKeepaliveInterval=25, LISTENPORT=1, listenportv6=2, mtu=1400)
    state = found.plan(OWN, [lease(leg4(2))]).state()
    (peer,) = state.all_of(WireguardPeer)
    assert (peer.preshared_key, peer.keepalive_s) == (PSK, 25)
    assert {(link.name, link.mtu_bytes) for link in state.all_of(Link)} == {
        ("overlay-wg", 1320),
        ("overlay-wg-v6", 1320),
    }
    assert {link.listen_port for link in state.all_of(Link) if isinstance(link, WireguardLink)} == {1, 2}
    assert found.mtu_bytes == 1320
    assert backend(state_dir).mtu_bytes == 1420


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"Mode": "both"}, "Mode.*'both'.*separate, auto, ipv4, ipv6"),
        ({"Mode": 4}, "Mode.*4"),
        ({"ListenPort": 0}, "ListenPort.*0.*1 to 65535"),
        ({"ListenPort": 53}, "ListenPort of backend wireguard is 53, the port of DNS"),
        ({"ListenPortV6": "x"}, "ListenPortV6.*'x'"),
        ({"ListenPort": 51821}, "both 51821"),
        ({"PersistentKeepaliveInterval": 65536}, "PersistentKeepaliveInterval.*65536"),
        ({"PSK": "c2VjcmV0"}, "PSK .*genpsk"),
        ({"PSK": 12345678}, "PSK .*text"),
        ({"MTU": 100}, "80 bytes.*100"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(state_dir: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        backend(state_dir, **config)
    assert re.search(said, str(caught.value), re.DOTALL), str(caught.value)
    assert not re.search("c2VjcmV0|12345678", str(caught.value))


@pytest.mark.parametrize(("mode", "network"), [("ipv4", V6), ("ipv6", V4)])
def test_a_mode_needs_addresses_that_are_published(state_dir: Path, mode: str, network: NetworkConfig) -> None:
    with pytest.raises(NetworkConfigError, match=mode):
        backend(state_dir, network, Mode=mode)


def test_reading_a_config_makes_no_key(state_dir: Path) -> None:
    found = backend(state_dir)
    assert found.mtu_bytes
    assert found.devices
    assert not state_dir.exists()


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (lease(replace(leg4(2), data=None)), "no usable PublicKey: None"),
        (lease(leg4(2, PublicKey="short")), "no usable PublicKey: 'short'"),
        (lease(leg4(2, PublicKey=key(2)[:-4])), "no usable PublicKey"),
        (lease(leg4(2, PublicKey=7)), "no usable PublicKey: 7"),
        (lease(leg4(2, PublicKey=key(0))), "no usable PublicKey"),
        (lease(leg4(2), replace(leg6(2), data=None)), "no usable PublicKey: None"),
        (Lease(v4=leg4(2), backend_type="vxlan"), "its backend is vxlan"),
        (lease(leg4(2, address="224.0.0.1")), "not one of a host"),
    ],
    ids=["no-data", "no-key", "short", "a-number", "zeros", "half", "vxlan", "multicast"],
)
def test_a_peer_that_cannot_be_served_is_refused_with_the_reason(state_dir: Path, peer: Lease, said: str) -> None:
    assert said in problem(backend(state_dir), peer, lease(leg4(3)))


def test_a_key_of_two_hosts_is_the_first_ones(state_dir: Path) -> None:
    thief = lease(leg4(3, PublicKey=key(2)))
    for peers in ([lease(leg4(2)), thief], [thief, lease(leg4(2))]):
        plan = backend(state_dir).plan(OWN, peers)
        assert list(plan.problems) == [thief.key_name]
        assert "also that of 198.18.1.2" in plan.problems[thief.key_name]
        assert [str(one.endpoint[0]) for one in plan.state().all_of(WireguardPeer) if one.endpoint] == ["198.18.1.2"]


def test_our_own_key_is_nobody_elses(state_dir: Path) -> None:
    found = backend(state_dir)
    assert "this host's own" in problem(found, lease(leg4(2, **found.lease_data(4))))


def test_keys_that_differ_need_devices_that_do(state_dir: Path) -> None:
    peer = lease(leg4(2), leg6(2, PublicKey=key(3)))
    assert backend(state_dir).plan(OWN, [peer]).problems == {}
    assert "Mode separate" in problem(backend(state_dir, Mode="auto"), peer)


def test_a_mode_that_a_peer_has_no_address_for(state_dir: Path) -> None:
    assert "no IPv6 address" in problem(backend(state_dir, Mode="ipv6"), lease(leg4(2)))


def test_two_leases_of_one_host_are_one_peer(state_dir: Path) -> None:
    # It moved to another subnet, and the lease of the first has not run out yet.
    moved = replace(leg4(2), subnet=IPv4Network("10.5.9.0/24"))
    plan = backend(state_dir).plan(OWN, [lease(leg4(2)), lease(moved)])
    (found,) = plan.state().all_of(WireguardPeer)
    assert found.allowed_ips == {IPv4Network("10.5.2.0/24"), IPv4Network("10.5.9.0/24")}
    assert len(plan.paths) == 2


def test_a_subnet_that_two_hosts_claim_is_one_hosts(state_dir: Path) -> None:
    # `10.5.2.0-24` and `10.5.2.0-24&…` are two keys.
    other = lease(replace(leg4(3), subnet=IPv4Network("10.5.2.0/24")), leg6(3))
    assert "10.5.2.0/24 is also that of 198.18.1.2" in problem(backend(state_dir), lease(leg4(2)), other)


def test_a_lease_that_is_refused_takes_nothing() -> None:
    claims = Claims(key(1))
    good = Claim(
        device="d",
        public_key=key(3),
        address=IPv4Address("198.18.1.3"),
        port=51820,
        subnets=(IPv4Network("10.5.3.0/24"),),
    )
    bad = replace(good, device="e", public_key=key(1))
    assert claims.add(lease(leg4(3)), [good, bad]) is not None
    assert claims.add(lease(leg4(4)), [replace(good, public_key=key(4))]) is None
    assert list(claims.granted()) == ["10.5.4.0-24"]


def test_the_public_key_in_the_lease_belongs_to_the_private_one(state_dir: Path) -> None:
    found = backend(state_dir)
    private = base64.b64decode((state_dir / keyfile.FILE).read_text()) if found.lease_data(4) else b""
    public = base64.b64encode(public_key(private)).decode()
    assert found.lease_data(4) == {"PublicKey": public, "Port": 51820}
    assert found.lease_data(6) == {"PublicKey": public, "Port": 51821}


@pytest.mark.parametrize("mode", ["auto", "ipv4", "ipv6"])
def test_the_port_in_the_lease_is_the_one_that_is_listened_on(state_dir: Path, mode: str) -> None:
    """flannel takes the IPv6 part's where it meets a peer over IPv6, and would dial port 0 without one."""
    found = backend(state_dir, Mode=mode, ListenPort=4500)
    assert [found.lease_data(version)["Port"] for version in (4, 6)] == [4500, 4500]


@pytest.mark.parametrize(
    ("mode", "ports", "met"),
    [
        ("separate", (4501, 4502), {"198.18.1.2:4501", "[2001:db8:1::2]:4502"}),
        ("ipv4", (4501, 4501), {"198.18.1.2:4501"}),
        ("ipv6", (4501, 4501), {"[2001:db8:1::2]:4501"}),
        # flannel's one device listens on ListenPort, whatever it publishes.
        ("ipv6", (51820, 51821), {"[2001:db8:1::2]:51820"}),
        ("separate", (0, "4502"), {"198.18.1.2:51820", "[2001:db8:1::2]:51821"}),
        ("separate", (65536, True), {"198.18.1.2:51820", "[2001:db8:1::2]:51821"}),
    ],
)
def test_a_peer_is_met_at_the_port_that_it_published(
    state_dir: Path, mode: str, ports: tuple[Any, Any], met: set[str]
) -> None:
    peer = lease(leg4(2, Port=ports[0]), leg6(2, Port=ports[1]))
    found = backend(state_dir, Mode=mode).plan(OWN, [peer]).state().all_of(WireguardPeer)
    assert {word for one in found for word in str(one).split() if "]:" in word or word.startswith("198.")} == met


def test_the_key_is_made_once_and_for_nobody_elses_eyes(state_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        key = keyfile.private_key(state_dir)
    path = state_dir / keyfile.FILE
    assert keyfile.private_key(state_dir) == key == path.read_text().strip()
    assert [stat.S_IMODE(one.stat().st_mode) for one in (state_dir, path)] == [0o700, 0o600]
    assert list(state_dir.iterdir()) == [path]
    assert key not in str([(record.msg, record.__dict__) for record in caplog.records])


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_key_that_others_could_read_is_closed_to_them(state_dir: Path, mode: int) -> None:
    key = keyfile.private_key(state_dir)
    path = state_dir / keyfile.FILE
    path.chmod(mode)
    assert keyfile.private_key(state_dir) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_key_that_is_somebody_elses_is_refused(state_dir: Path) -> None:
    keyfile.private_key(state_dir)
    os.chown(state_dir / keyfile.FILE, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        keyfile.private_key(state_dir)


@pytest.mark.parametrize("content", [b"", b"secret words", b"c2VjcmV0\n", b"\xff\xfe"])
def test_a_file_that_is_no_key_is_refused_unshown_and_left(state_dir: Path, content: bytes) -> None:
    state_dir.mkdir()
    path = state_dir / keyfile.FILE
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        keyfile.private_key(state_dir)
    assert "secret words" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_key_is_taken_as_the_device_will_show_it(state_dir: Path) -> None:
    state_dir.mkdir()
    (state_dir / keyfile.FILE).write_text(base64.b64encode(b"\xff" * 32).decode())
    (state_dir / keyfile.FILE).chmod(0o600)
    assert base64.b64decode(keyfile.private_key(state_dir)) == b"\xf8" + b"\xff" * 30 + b"\x7f"


def test_no_text_of_a_plan_shows_a_secret(state_dir: Path) -> None:
    plan = backend(state_dir, PSK=PSK).plan(OWN, [lease(leg4(2), leg6(2))])
    shown = repr(plan) + str([str(item) for objects in plan.peers.values() for item in objects])
    assert PSK not in shown
    assert keyfile.private_key(state_dir) not in shown


def test_an_endpoint_is_insisted_on_until_it_was_given(state_dir: Path) -> None:
    (found,) = backend(state_dir).plan(OWN, [lease(leg4(2))]).state().all_of(WireguardPeer)
    assert isinstance(found, WireguardPeer)
    assert not found.roams
