"""Sets of addresses and of networks for iptables (ipset(8)). Linux 2.6.39.

Every function opens a socket of its own and closes it.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from socket import AF_INET, AF_INET6
from typing import Any

from overlayd.errors import KernelRefused, UnsupportedError
from overlayd.kernel import modules
from overlayd.kernel.pyroute import IPSet, NetlinkError
from overlayd.lib.addresses import IPAddress, IPNetwork

_FAMILY = {4: AF_INET, 6: AF_INET6}
ADDRESSES, NETWORKS = "hash:ip", "hash:net"
# linux/netfilter/ipset/ip_set.h: ipset has error numbers of its own; IPSET_ERR_FIND_TYPE.
_NO_TYPE = 4097
# Elements of one set: more than a network has hosts.
MAX_ELEMENTS = 65536


def read(name: str) -> frozenset[str] | None:
    """The elements of a set, as text; None where there is no such set. Raises UnsupportedError, KernelRefused."""
    with _connection("read", name) as sets:
        try:
            found = list(sets.list(name))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return None
            raise
    entries = set()
    for message in found:
        for entry in _entries(message):
            entries.add(entry)
    return frozenset(entries)


def sync(name: str, version: int, elements: Collection[IPAddress] | Collection[IPNetwork], *, kind: str) -> bool:
    """Make a set of that kind hold exactly these elements; returns whether the set itself had to be made.

    Raises UnsupportedError where the kernel has no sets of that kind, KernelRefused.
    """
    there = read(name)
    entries = {str(one) for one in elements}
    etype = kind.removeprefix("hash:")
    if there is None:
        with _connection("make", name) as sets:
            sets.create(name, stype=kind, family=_FAMILY[version], maxelem=MAX_ELEMENTS)
    with _connection("write", name) as sets:
        for entry in sorted(entries - (there or frozenset())):
            sets.add(name, entry, family=_FAMILY[version], etype=etype, exclusive=False)
        for entry in sorted((there or frozenset()) - entries):
            sets.delete(name, entry, family=_FAMILY[version], etype=etype, exclusive=False)
    return there is None


def remove(name: str) -> bool:
    """Remove a set that no rule names any more; returns whether it was there. Raises KernelRefused."""
    try:
        with _connection("remove", name) as sets:
            sets.destroy(name)
    except UnsupportedError:
        return False
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOENT:
            return False
        raise
    return True


@contextmanager
def _connection(verb: str, name: str) -> Iterator[Any]:
    try:
        with IPSet() as sets:
            yield sets
    except NetlinkError as error:
        lacking = error.code in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, _NO_TYPE)
        # A kernel without ipset answers EINVAL to every request, one with ipset to a wrong request.
        if lacking or (error.code == errno.EINVAL and verb in ("make", "read")):
            raise modules.lacking(
                f"this kernel has no sets of addresses: ipset {verb} {name}",
                *("ip_set_hash_ip", "ip_set_hash_net", "xt_set"),
            ) from error
        raise KernelRefused(f"ipset {verb}", name, error.code) from error
    except OSError as error:
        raise KernelRefused(f"ipset {verb}", name, error.errno or errno.EIO) from error


def _entries(message: Any) -> Iterator[str]:
    attribute = message.get_attr("IPSET_ATTR_ADT")
    for data in attribute.get_attrs("IPSET_ATTR_DATA") if attribute is not None else ():
        address = data.get_attr("IPSET_ATTR_IP_FROM")
        if address is not None:
            found = address.get_attr("IPSET_ATTR_IPADDR_IPV4") or address.get_attr("IPSET_ATTR_IPADDR_IPV6")
            length = data.get_attr("IPSET_ATTR_CIDR")
            yield f"{found}/{length}" if length else str(found)
