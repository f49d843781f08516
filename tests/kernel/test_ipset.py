"""Sets of addresses in the real kernel: what we write is what ipset(8) and pyroute2 read, and the other way round."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from pyroute2.ipset import IPSet

from overlayd.errors import KernelRefused, UnsupportedError
from overlayd.kernel import ipset, messages
from overlayd.lib.addresses import IPAddress, IPNetwork
from tests.testbed.needs import needs
from tests.testbed.netns import namespaces
from tests.testbed.netns.namespaces import inside

NAME = "overlay-test"
MANY = 3000
# linux/netfilter/ipset/ip_set.h, ip_set_hash.h: IPSET_ERR_BUSY, IPSET_ERR_INVALID_CIDR, IPSET_ERR_HASH_ELEM.
BUSY, INVALID_CIDR, HASH_ELEM = 4100, 4104, 4353
FAMILY_WORD = {4: "inet", 6: "inet6"}
Elements = Collection[IPAddress] | Collection[IPNetwork]


def addresses(version: int, count: int) -> list[IPAddress]:
    """As many addresses, one after the other."""
    base = IPv4Address("198.18.0.1") if version == 4 else IPv6Address("2001:db8::1")
    return [base + number for number in range(count)]


def networks(version: int, count: int) -> list[IPNetwork]:
    """As many networks, of different lengths: the first is one address."""
    if version == 4:
        return [IPv4Network(((10 << 24) + (number << 8), 24 if number else 32)) for number in range(count)]
    return [IPv6Network(((0xFD42 << 112) + (number << 64), 64 if number else 128)) for number in range(count)]


KINDS = [
    pytest.param(kind, version, made, id=f"{kind}-{version}")
    for kind, made in ((ipset.ADDRESSES, addresses), (ipset.NETWORKS, networks))
    for version in (4, 6)
]


@pytest.fixture
def host() -> Iterator[str]:
    """A namespace without sets. The test is skipped where the kernel has none of addresses."""
    name = namespaces.unique("ipset")
    namespaces.make(name)
    try:
        try:
            inside(name, partial(ipset.read, NAME))
        except UnsupportedError as error:
            pytest.skip(error.message)
        yield name
    finally:
        namespaces.remove(name)


def sync(host: str, version: int, elements: Elements, kind: str) -> bool:
    """Make the set hold these; whether it had to be made."""
    return inside(host, lambda: ipset.sync(NAME, version, elements, kind=kind))


def read(host: str) -> frozenset[str] | None:
    """What we read."""
    return inside(host, partial(ipset.read, NAME))


def read_by_pyroute2(host: str) -> frozenset[str]:
    """What pyroute2 reads."""

    def listed() -> list[Any]:
        with IPSet() as sets:
            return list(sets.list(NAME))

    found: set[str] = set()
    for message in inside(host, listed):
        for data in message.get_attr("IPSET_ATTR_ADT").get_attrs("IPSET_ATTR_DATA"):
            address, length = data.get_attr("IPSET_ATTR_IP_FROM"), data.get_attr("IPSET_ATTR_CIDR")
            text = address.get_attr("IPSET_ATTR_IPADDR_IPV4") or address.get_attr("IPSET_ATTR_IPADDR_IPV6")
            found.add(text if length is None else f"{text}/{length}")
    return frozenset(found)


def texts(elements: Elements) -> frozenset[str]:
    """The elements as we read them."""
    return frozenset(map(str, elements))


@pytest.mark.parametrize(("kind", "version", "made"), KINDS)
def test_a_set_holds_exactly_what_it_was_given(host: str, kind: str, version: int, made: Any) -> None:
    three = made(version, 3)
    assert read(host) is None
    assert sync(host, version, three[:2], kind) is True
    assert read(host) == read_by_pyroute2(host) == texts(three[:2])
    assert sync(host, version, three[1:], kind) is False
    assert read(host) == read_by_pyroute2(host) == texts(three[1:])
    assert sync(host, version, (), kind) is False
    assert read(host) == frozenset()


@pytest.mark.parametrize(("kind", "version", "made"), KINDS)
def test_thousands_of_elements_are_written_by_a_few_messages(
    host: str, kind: str, version: int, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = made(version, MANY + MANY // 2)
    commands: list[int] = []

    def counted(command: int, *request: Any, **over: Any) -> None:
        commands.append(command & 0xFF)
        messages.change(command, *request, **over)

    monkeypatch.setattr(ipset, "change", counted)
    sync(host, version, many[:MANY], kind)
    assert read(host) == read_by_pyroute2(host) == texts(many[:MANY])
    sync(host, version, many[-MANY:], kind)
    assert read(host) == read_by_pyroute2(host) == texts(many[-MANY:])
    assert commands == [ipset.CMD_CREATE, *[ipset.CMD_ADD] * 5, *[ipset.CMD_DEL] * 2]
    commands.clear()
    assert sync(host, version, many[-MANY:], kind) is False
    assert not commands


@needs("ipset")
@pytest.mark.parametrize(("kind", "version", "made"), KINDS)
def test_its_state_is_another_one_with_each_other_element(host: str, kind: str, version: int, made: Any) -> None:
    assert inside(host, partial(ipset.state, NAME)) is None
    many, seen = made(version, 3001), set()
    for elements in ((), many[:1], many[:3000], many[1:]):
        sync(host, version, elements, kind)
        found = {inside(host, partial(ipset.state, NAME)) for _ in range(2)}
        assert len(found) == 1
        seen |= found
    assert len(seen) == 4


@needs("ipset")
@pytest.mark.parametrize(("kind", "version", "made"), KINDS)
def test_ipset_lists_what_we_write_and_we_read_what_it_writes(host: str, kind: str, version: int, made: Any) -> None:
    some = made(version, MANY)
    sync(host, version, some, kind)
    header, *lines = namespaces.run(host, ["ipset", "list", NAME, "-output", "save"]).splitlines()
    words = header.split()
    assert words[:5] == ["create", NAME, kind, "family", FAMILY_WORD[version]]
    assert words[words.index("maxelem") + 1] == str(ipset.MAX_ELEMENTS)
    # It writes a network of one address as that address.
    shown = {str(one).removesuffix("/32").removesuffix("/128") for one in some}
    assert set(lines) == {f"add {NAME} {one}" for one in shown}
    # What it makes of its own lines has its own options, and is ours all the same.
    namespaces.run(host, ["ipset", "destroy", NAME])
    namespaces.run(host, ["ipset", "restore"], input="\n".join([header, *lines, ""]))
    assert read(host) == texts(some)
    sync(host, version, some[:2], kind)
    assert read(host) == texts(some[:2])


@pytest.mark.parametrize(("kind", "version", "made"), KINDS)
def test_a_set_that_pyroute2_made_is_kept_and_its_elements_are_not(
    host: str, kind: str, version: int, made: Any
) -> None:
    wanted, other = made(version, 2)

    def make() -> None:
        # Of the newest revision that the kernel has, as the daemon made them until now.
        with IPSet() as sets:
            family = {4: 2, 6: 10}[version]
            sets.create(NAME, stype=kind, family=family)
            sets.add(NAME, str(other), family=family, etype=kind.removeprefix("hash:"))

    inside(host, make)
    assert read(host) == texts([other])
    assert sync(host, version, [wanted], kind) is False
    assert read(host) == texts([wanted])


def test_elements_behind_a_refused_one_are_not_written(host: str) -> None:
    # In the order of their bytes, in which they are sent. No set of addresses holds the unspecified one.
    unspecified, behind = (IPv6Address(text) for text in ("::", "2001:db8::1"))
    with pytest.raises(KernelRefused, match=f"ipset write {NAME}") as caught:
        sync(host, 6, [behind, unspecified], ipset.ADDRESSES)
    assert caught.value.errno == HASH_ELEM
    assert read(host) == frozenset()
    # The next call goes on with the set.
    assert sync(host, 6, [behind], ipset.ADDRESSES) is False
    assert read(host) == texts([behind])


def test_a_network_of_everything_is_refused(host: str) -> None:
    with pytest.raises(KernelRefused) as caught:
        sync(host, 4, [IPv4Network("0.0.0.0/0")], ipset.NETWORKS)
    assert caught.value.errno == INVALID_CIDR


def test_a_kind_that_the_kernel_lacks_is_unsupported(host: str) -> None:
    with pytest.raises(UnsupportedError, match="no sets of addresses"):
        sync(host, 4, [], "hash:nothing")
    assert read(host) is None


def test_a_set_of_another_kind_or_family_is_refused(host: str) -> None:
    sync(host, 4, networks(4, 2), ipset.NETWORKS)
    with pytest.raises(KernelRefused) as caught:
        sync(host, 4, addresses(4, 1), ipset.ADDRESSES)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(KernelRefused):
        sync(host, 6, networks(6, 1), ipset.NETWORKS)


def test_a_set_is_removed_once_nothing_uses_it(host: str) -> None:
    assert inside(host, partial(ipset.remove, NAME)) is False
    sync(host, 4, addresses(4, 2), ipset.ADDRESSES)
    rule = ["INPUT", "-m", "set", "--match-set", NAME, "src", "-j", "ACCEPT"]
    namespaces.run(host, ["iptables", "-A", *rule])
    with pytest.raises(KernelRefused, match=f"ipset remove {NAME}") as caught:
        inside(host, partial(ipset.remove, NAME))
    assert caught.value.errno == BUSY
    namespaces.run(host, ["iptables", "-D", *rule])
    assert inside(host, partial(ipset.remove, NAME)) is True
    assert read(host) is None
    assert inside(host, partial(ipset.remove, NAME)) is False
