"""Whatever peers publish and the config says, the plan is valid for the kernel and takes nothing from others."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlayd import backends
from overlayd.backends.environment import Environment
from overlayd.backends.peers import PeerTable
from overlayd.errors import NetworkConfigError, UnsupportedError
from overlayd.kernel.converge import Plan
from overlayd.kernel.diff import diff
from overlayd.kernel.state import (
    Address,
    FdbEntry,
    IpipLink,
    KernelState,
    Neighbour,
    Route,
    Sysctl,
    TunLink,
    VxlanLink,
    WireguardLink,
    WireguardPeer,
)
from overlayd.leases.lease import Lease
from overlayd.leases.lease_table import LeaseTableReader
from overlayd.lib.addresses import IPAddress, is_within, overlaps
from overlayd.store.protocol import KeyValue
from tests.unit.fuzz.leases import rivals, tables
from tests.unit.kernel.scenes import IPV4_ONLY, UNDERLAY, Scene

PLANNED = tuple(name for name in backends.names() if hasattr(backends.load(name), "plan"))
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def versions(kind: str) -> st.SearchStrategy[tuple[int, ...]]:
    """The combinations of IP versions that a network with this backend may have."""
    return st.just((4,)) if kind in IPV4_ONLY else st.sampled_from([(4,), (4, 6), (6,)])


def peers_of(entries: dict[str, KeyValue], own: Lease) -> list[Lease]:
    """The leases that a host gives to its backend, selected as host.py does."""
    leases = LeaseTableReader().read(entries.items()).leases.items()
    return [lease for name, lease in leases if lease.public_ip != own.public_ip and name != own.key_name]


def names_of(leases: list[Lease]) -> set[str]:
    return {lease.key_name for lease in leases}


@pytest.mark.parametrize("kind", PLANNED)
@given(data=st.data())
@settings(max_examples=80)
def test_any_leases_make_a_plan_that_the_kernel_can_hold(kind: str, data: st.DataObject) -> None:
    entries = {**data.draw(tables(most=3)), **data.draw(rivals(backends.published_type(kind)))}
    scene = Scene(kind=kind, versions=data.draw(versions(kind)), blackhole=data.draw(st.booleans()))
    if kind == "vxlan":
        scene = Scene(**{**vars(scene), "options": {"DirectRouting": data.draw(st.booleans())}})
    environment, own = scene.environment(), scene.own_lease()
    backend: Any = scene.backend()
    leases = peers_of(entries, own)
    plan = backend.plan(own, leases)
    assert not plan.peers.keys() & plan.problems.keys()
    assert plan.paths.keys() <= names_of(leases)
    assert plan.peers.keys() <= names_of(leases)
    assert plan.problems.keys() | plan.paths.keys() == names_of(leases)
    assert all(text.isprintable() and len(text) < 500 for text in (*plan.problems.values(), *plan.paths.values()))
    state = plan.state()
    assert_one_of_each_key(state)
    assert_harmless(plan, environment, own)
    for item in state.objects:
        assert_writable(item)
    # In whatever order etcd lists them.
    again: Plan = backend.plan(own, data.draw(st.permutations(leases)))
    assert again.state() == state
    assert again.problems == plan.problems


def assert_one_of_each_key(state: KernelState) -> None:
    """Assert that no two objects have one key: they would replace each other for ever."""
    keys = [(item.rank, item.key) for item in state.objects]
    assert len(keys) == len(set(keys)), sorted(map(str, state.objects))
    senders = [(peer.link, allowed) for peer in state.all_of(WireguardPeer) for allowed in peer.allowed_ips]
    assert len(senders) == len(set(senders))


def assert_harmless(plan: Plan, environment: Environment, own: Lease) -> None:
    """Assert that each peer gets only its own subnet, in the network and without addresses of host or underlay."""
    networks = environment.network.networks
    for found in plan.peers.values():
        for subnet in subnets_of(found):
            assert any(is_within(subnet, network) for network in networks), subnet
            assert not any(overlaps(subnet, ours) for ours in own.subnets), subnet
            assert not any(overlaps(subnet, near) for end in environment.underlay.endpoints for near in end.on_link), (
                subnet
            )
        for address in ends_of(found):
            assert not address.is_multicast, address
            assert not address.is_unspecified, address
            assert not address.is_loopback, address
            assert not address.is_link_local or address.version == 4, address
            assert all(address != end.address for end in environment.underlay.endpoints), address


def subnets_of(found: tuple[Any, ...]) -> Iterator[Any]:
    for item in found:
        match item:
            case Route():
                yield item.dst
            case WireguardPeer():
                yield from item.allowed_ips


def ends_of(found: tuple[Any, ...]) -> Iterator[IPAddress]:
    """The addresses to which packets for a peer are sent."""
    for item in found:
        match item:
            case FdbEntry():
                yield item.dst
            case WireguardPeer():
                assert item.endpoint is not None
                yield item.endpoint[0]
            case Route(link=UNDERLAY.name):
                assert item.via is not None
                yield item.via


def assert_writable(item: Any) -> None:
    """Assert that each value fits its field in netlink."""
    assert "%" not in str(item)
    match item:
        case VxlanLink() | TunLink() | IpipLink() | WireguardLink():
            assert 0 < len(item.name.encode()) <= 15
            assert 68 <= item.mtu_bytes <= 65535
            if isinstance(item, VxlanLink):
                assert 0 < item.vni < 2**24
                assert 0 < item.port < 2**16
        case Neighbour() | FdbEntry():
            assert MAC.fullmatch(item.mac)
            assert not int(item.mac[:2], 16) & 1
            assert item.mac != "00:00:00:00:00:00"
        case Route():
            assert 0 <= item.metric < 2**32
            assert item.via is None or item.via.version == item.dst.version
        case Address() | Sysctl() | WireguardPeer():
            assert str(item).isprintable()


ODD_OPTIONS = st.sampled_from([0, 1, -1, 2**24 - 1, 2**24, 65535, 65536, 68, 117, 118, 1280, 1349, 1500, 9000, 10**400])
VALUES = (
    ODD_OPTIONS
    | st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["auto", "separate", "ipv6", "true", "x" * 5000, "sh -c 'a'", "a | b", "'", "$SUBNET"])
    | st.lists(st.none(), max_size=2)
)
KEYS = (
    *("VNI", "Port", "GBP", "Learning", "DirectRouting", "MTU", "ListenPort", "ListenPortV6", "PSK", "Mode"),
    *("PersistentKeepaliveInterval", "PreStartupCommand", "SubnetAddCommand", "SubnetRemoveCommand", "vni", "X"),
)


@pytest.mark.parametrize("kind", backends.names())
@given(
    config=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), VALUES, max_size=4),
    mtu_bytes=st.sampled_from([0, 68, 96, 118, 148, 575, 576, 1280, 1329, 1330, 1350, 1500, 9000, 65535, 65536]),
    dual=st.booleans(),
)
@settings(max_examples=60)
def test_any_config_of_a_backend_is_taken_whole_or_refused(
    kind: str, config: dict[str, Any], mtu_bytes: int, dual: bool
) -> None:
    scene = Scene(kind=kind, versions=(4, 6) if dual else (4,), mtu_bytes=mtu_bytes)
    found: Any = None
    problem = ""
    try:
        found = backends.load(kind).from_config(config, scene.environment())
    except (NetworkConfigError, UnsupportedError) as error:
        problem = error.message
    assert problem.isprintable()
    assert len(problem) < 500
    if found is None:
        return
    # RFC 791, and RFC 8200 where the network has IPv6.
    if any((found.facts.overhead_bytes or {}).values()):
        assert found.mtu_bytes >= (1280 if dual else 68)
    if hasattr(found, "plan"):
        for item in found.plan(scene.own_lease(), []).state().objects:
            assert_writable(item)


@pytest.mark.parametrize("kind", [name for name in PLANNED if name != "wireguard"])
def test_five_thousand_leases_are_planned_within_seconds(kind: str) -> None:
    entries = {f"10.{n >> 8}.{n & 255}.0-24": value(kind, n) for n in range(6000) if n & 255 != 255}
    scene = Scene(kind=kind)
    environment = scene.environment()
    network = backends_network()
    environment = Environment(network=network, underlay=environment.underlay)
    backend: Any = backends.load(kind).from_config({}, environment)
    # The time of this process, as others may use the machine.
    began = time.process_time()
    leases = peers_of(entries, scene.own_lease())
    plan = backend.plan(scene.own_lease(), leases)
    operations = diff(plan.state(), KernelState())
    assert diff(plan.state(), plan.state()) == ()
    took = time.process_time() - began
    assert len(leases) >= 5000
    least = 5000
    if backend.facts.one_route:
        least = 3
    elif backend.facts.device_kind is None:
        # Where plain routes are all, most peers are behind a router.
        least = 1 if backend.facts.overhead_bytes is None else 250
    assert len(operations) >= least
    # About half a second on the slowest machine in use; a quadratic step would take minutes.
    assert took < 8, f"{took:.1f} s"


def backends_network() -> Any:
    from overlayd.leases.network_config import parse_network_config  # noqa: PLC0415

    return parse_network_config('{"Network": "10.0.0.0/8"}')


def value(kind: str, number: int) -> KeyValue:
    """The value of one of thousands of leases."""
    document = {
        "PublicIP": f"198.18.{number >> 8}.{number & 255}",
        "BackendType": backends.published_type(kind),
        "BackendData": {"VNI": 1, "VtepMAC": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"},
    }
    return KeyValue(key="", value=json.dumps(document).encode(), mod_revision=1, lease_id=1)


@given(rivals("udp"))
@settings(max_examples=100)
def test_the_udp_table_lets_in_only_what_a_lease_says(entries: dict[str, KeyValue]) -> None:
    scene = Scene(kind="udp")
    own = scene.own_lease()
    backend: Any = scene.backend()
    leases = peers_of(entries, own)
    plan = backend.plan(own, leases)
    served = [lease for lease in leases if lease.key_name not in plan.problems]
    table = PeerTable(served, 8285)
    for lease in served:
        assert lease.v4 is not None
        assert isinstance(lease.v4.subnet, IPv4Network)
        for address in (lease.v4.subnet[0], lease.v4.subnet[-1]):
            way = table.find_host(int(address))
            assert way is not None
            holders = {str(one.v4.public_ip) for one in served if one.v4 and address in one.v4.subnet}
            assert way[0] in holders
            sources = table.sources(str(lease.v4.public_ip))
            assert sources is not None
            assert any(int(address) >> shift == base for shift, base in sources)
    assert table.sources("198.18.1.99") is None
    assert table.find_host(int(IPv4Network("10.5.1.0/24")[5])) is None
