"""Who beside routes has a say about packets: policy routing and IPsec; and whether firewall rules changed."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from overlayd.errors import KernelRefused
from overlayd.kernel.messages import FAMILY, NETLINK_NETFILTER, ask, attributes, dump, number, opened

# linux/rtnetlink.h, linux/fib_rules.h, linux/xfrm.h
RTM_GETRULE, NETLINK_XFRM, XFRM_MSG_GETPOLICY = 34, 6, 0x15
FRA_PRIORITY, FRA_TABLE, FR_ACT_TO_TBL = 6, 15, 1
# The tables that every host looks in: default, main, local.
_TABLES_OF_ALL = (253, 254, 255)
_RULE = struct.Struct("=BBBBBxxBI")  # fib_rule_hdr: family, two lengths, tos, table, action, flags
_POLICY_ID_BYTES = 64
# linux/netfilter/nf_tables.h; nfgenmsg is family, version, resource.
NFT_MSG_GETGEN, NFTA_GEN_ID = 10 << 8 | 16, 1
_NFGENMSG = struct.Struct("=BBH")
# In xfrm_userpolicy_info. Directions above 2 are of single sockets.
_DIRECTION_AT, _LAST_DIRECTION = 160, 2


def routing_rules(version: int) -> Iterator[str]:
    """The rules of policy routing (ip-rule(8)) that may lead packets elsewhere than the main table does.

    Raises KernelRefused.
    """
    for message in _all("rule list", RTM_GETRULE, _RULE.pack(FAMILY[version], 0, 0, 0, 0, 0, 0), socket.NETLINK_ROUTE):
        family, _to, _from, _tos, table, action, _flags = _RULE.unpack_from(message)
        found = attributes(message, _RULE.size)
        table = number(found.get(FRA_TABLE)) or table
        if family == FAMILY[version] and (action != FR_ACT_TO_TBL or table not in _TABLES_OF_ALL):
            yield f"rule {number(found.get(FRA_PRIORITY))} of policy routing, table {table}"


def has_ipsec() -> bool:
    """Whether there is a policy of IPsec (ip-xfrm(8)), which may encrypt packets or drop them. Raises KernelRefused."""
    try:
        return any(
            len(message) > _DIRECTION_AT and message[_DIRECTION_AT] <= _LAST_DIRECTION
            for message in _all("policy list", XFRM_MSG_GETPOLICY, bytes(_POLICY_ID_BYTES), NETLINK_XFRM)
        )
    except KernelRefused as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return False
        raise


def nftables_generation() -> int | None:
    """A number that every change of nftables' rules raises, iptables-nft's included; None where there is no nftables.

    Elements of sets count too. Legacy iptables has no such number.
    """
    try:
        with opened(NETLINK_NETFILTER) as end:
            found = attributes(ask(NFT_MSG_GETGEN, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0), over=end), _NFGENMSG.size)
    except OSError:
        return None
    return int.from_bytes(found.get(NFTA_GEN_ID, b""), "big")


def has_legacy_iptables() -> bool:
    """Whether legacy iptables has a table here: of changes there the kernel tells nobody."""
    for name in ("ip_tables_names", "ip6_tables_names"):
        with contextlib.suppress(OSError):
            if Path(f"/proc/thread-self/net/{name}").read_text():
                return True
    return False


def _all(operation: str, kind: int, request: bytes, protocol: int) -> Iterator[bytes]:
    try:
        with opened(protocol) as end:
            for _flags, message in dump(kind, request, over=end):
                yield message
    except OSError as error:
        raise KernelRefused(operation, "of this host", error.errno or errno.EIO) from error
