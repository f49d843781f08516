"""Sets of addresses and of networks for iptables (ipset(8)): linux/netfilter/ipset/ip_set.h, Linux 2.6.39.

Every function opens a socket of its own and closes it.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from overlayd.errors import KernelRefused, UnsupportedError
from overlayd.kernel import modules
from overlayd.kernel.messages import (
    FAMILY,
    NETLINK_NETFILTER,
    NLA_TYPE_MASK,
    NLM_F_EXCL,
    attribute,
    attributes,
    byte,
    change,
    dump,
    listed,
    nested,
    opened,
    text,
)
from overlayd.lib.addresses import IPAddress, IPNetwork

ADDRESSES, NETWORKS = "hash:ip", "hash:net"
# Elements of one set: more than a network has hosts.
MAX_ELEMENTS = 65536
# An IPv6 network takes 36 bytes, and the length of the attribute with all of them has 16 bits.
ELEMENTS_AT_ONCE = 1000
NFNL_SUBSYS_IPSET = 6
NLA_F_NET_BYTEORDER = 0x4000
CMD_CREATE, CMD_DESTROY, CMD_LIST, CMD_ADD, CMD_DEL = 2, 3, 7, 9, 10
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY = 1, 2, 3, 4, 5
ATTR_DATA, ATTR_ADT, ATTR_LINENO = 7, 8, 9
# Inside ATTR_DATA; and inside ATTR_IP, by IP version.
ATTR_IP, ATTR_CIDR, ATTR_MAXELEM = 1, 3, 19
ATTR_IPADDR = {4: 1, 6: 2}
# Linux 4.18 takes no other protocol, and newer kernels take this one too.
PROTOCOL = 6
# The oldest revision of a kind. Linux 4.18 to 6.18 have it, and later ones bring nothing that is used here. An ipset(8)
# that is older than the kernel cannot list sets of a revision that it does not know.
REVISION = 0
# ipset has error numbers of its own. IPSET_ERR_FIND_TYPE: the kernel has no sets of that kind.
_NO_TYPE = 4098
_HEADER = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
_NUMBER = struct.Struct("!I")
# Two headers of attributes: that of ATTR_IP, and the one inside it.
_ADDRESS = struct.Struct("=HHHH")


def read(name: str) -> frozenset[str] | None:
    """The elements of a set, as text; None where there is no such set. Raises UnsupportedError, KernelRefused."""
    found = _read(name)
    return None if found is None else frozenset(str(_element(key)) for key in found)


def state(name: str) -> bytes | None:
    """What is the same for as long as nobody changes a set, its elements included; None where there is no such set.

    The bytes of its list, which take a tenth of the time that elements take. Raises UnsupportedError, KernelRefused.
    """
    found = hashlib.sha256()
    with _connection("read", name) as end:
        try:
            for _flags, message in dump(_kind(CMD_LIST), _request(name), over=end):
                found.update(message)
        except FileNotFoundError:
            return None
    return found.digest()


def sync(name: str, version: int, elements: Collection[IPAddress] | Collection[IPNetwork], *, kind: str) -> bool:
    """Make a set of that kind hold exactly these elements; returns whether the set itself had to be made.

    Where the kernel refuses an element, those before it are written. Raises UnsupportedError where the kernel has no
    sets of that kind, KernelRefused.
    """
    found = _read(name)
    there = found or set[_Key]()
    wanted = _by_key(frozenset(elements))
    if found is None:
        with _connection("make", name) as end:
            change(_kind(CMD_CREATE), NLM_F_EXCL, _creation(name, version, kind), over=end)
    with _connection("write", name) as end:
        if any((len(key) % 4 == 0) != (kind == ADDRESSES) for key in there):
            # Somebody made a set of another kind under this name.
            raise OSError(errno.EINVAL, f"{name} is not of {kind}")
        _write(end, CMD_ADD, name, [wanted[key] for key in sorted(wanted.keys() - there)])
        _write(end, CMD_DEL, name, [_element(key) for key in sorted(there - wanted.keys())])
    return found is None


def remove(name: str) -> bool:
    """Remove a set that no rule names any more; returns whether it was there. Raises KernelRefused."""
    try:
        with _connection("remove", name) as end:
            # Without NLM_F_EXCL newer kernels take a set that is not there for removed.
            change(_kind(CMD_DESTROY), NLM_F_EXCL, _request(name), over=end)
    except UnsupportedError:
        return False
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOENT:
            return False
        raise
    return True


@contextmanager
def _connection(verb: str, name: str) -> Iterator[socket.socket]:
    try:
        with opened(NETLINK_NETFILTER) as end:
            yield end
    except OSError as error:
        code = error.errno or errno.EIO
        lacking = code in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, _NO_TYPE)
        # A kernel without ipset answers EINVAL to every request, one with ipset to a wrong request.
        if lacking or (code == errno.EINVAL and verb in ("make", "read", "remove")):
            raise modules.lacking(
                f"this kernel has no sets of addresses: ipset {verb} {name}",
                *("ip_set_hash_ip", "ip_set_hash_net", "xt_set"),
            ) from error
        raise KernelRefused(f"ipset {verb}", name, code) from error


def _write(end: socket.socket, command: int, name: str, elements: Sequence[IPAddress | IPNetwork]) -> None:
    """Add or delete elements, many by one message. It is no error where one is there, or gone, already (NLM_F_EXCL).

    ipset(8) restores a set in the same way. No element has a line number here, so that the kernel reports a refused one
    by an ordinary error. Raises OSError.
    """
    for first in range(0, len(elements), ELEMENTS_AT_ONCE):
        some = elements[first : first + ELEMENTS_AT_ONCE]
        request = _request(name, _number(ATTR_LINENO, first + 1), nested(ATTR_ADT, map(_data, some)))
        change(_kind(command), 0, request, over=end)


def _kind(command: int) -> int:
    return NFNL_SUBSYS_IPSET << 8 | command


def _request(name: str, *parts: bytes) -> bytes:
    # The family has no meaning here; ipset(8) sends this one.
    head = _HEADER.pack(socket.AF_INET, 0, 0) + byte(ATTR_PROTOCOL, PROTOCOL)
    return b"".join([head, text(ATTR_SETNAME, name), *parts])


def _creation(name: str, version: int, kind: str) -> bytes:
    return _request(
        name,
        text(ATTR_TYPENAME, kind),
        byte(ATTR_REVISION, REVISION),
        byte(ATTR_FAMILY, FAMILY[version]),
        nested(ATTR_DATA, [_number(ATTR_MAXELEM, MAX_ELEMENTS)]),
    )


def _data(element: IPAddress | IPNetwork) -> bytes:
    """One element. hash:ip takes no length, neither 32 nor 128."""
    if isinstance(element, IPv4Address | IPv6Address):
        return nested(ATTR_DATA, [_ip(element)])
    return nested(ATTR_DATA, [_ip(element.network_address), byte(ATTR_CIDR, element.prefixlen)])


def _ip(address: IPAddress) -> bytes:
    return nested(ATTR_IP, [attribute(ATTR_IPADDR[address.version] | NLA_F_NET_BYTEORDER, address.packed)])


def _number(kind: int, value: int) -> bytes:
    """One attribute that is a number of four bytes in network order."""
    return attribute(kind | NLA_F_NET_BYTEORDER, _NUMBER.pack(value))


# An element as it is compared, as there may be thousands: the address, and behind it the length of a network.
_Key = bytes


@lru_cache(maxsize=8)
def _by_key(elements: frozenset[IPAddress | IPNetwork]) -> dict[_Key, IPAddress | IPNetwork]:
    """The elements by their keys. The same sets are asked for again and again."""
    return {
        one.packed
        if isinstance(one, IPv4Address | IPv6Address)
        else one.network_address.packed + bytes([one.prefixlen]): one
        for one in elements
    }


def _element(key: _Key) -> IPAddress | IPNetwork:
    match len(key):
        case 4:
            return IPv4Address(key)
        case 5:
            return IPv4Network((key[:4], key[4]))
        case 16:
            return IPv6Address(key)
        case _:
            return IPv6Network((key[:16], key[16]))


def _read(name: str) -> set[_Key] | None:
    with _connection("read", name) as end:
        try:
            return {
                key
                for _flags, message in dump(_kind(CMD_LIST), _request(name), over=end)
                for kind, data in listed(attributes(message, _HEADER.size).get(ATTR_ADT, b""))
                if kind == ATTR_DATA and (key := _key(data))
            }
        except FileNotFoundError:
            return None


def _key(data: bytes) -> _Key | None:
    """The key of an element; None for one without an address, which sets of others have."""
    # What the kernel writes begins with the address; not by `attributes`, which takes four times as long.
    if len(data) < _ADDRESS.size:
        return None
    size, kind, inner, _version = _ADDRESS.unpack_from(data)
    if kind & NLA_TYPE_MASK != ATTR_IP:
        return None
    address = data[_ADDRESS.size : _ADDRESS.size - 4 + inner]
    length = attributes(data, (size + 3) & ~3).get(ATTR_CIDR, b"\0")[0] if size < len(data) else 0
    return address + bytes([length]) if length else address
