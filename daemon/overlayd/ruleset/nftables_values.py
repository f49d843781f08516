"""The value that an expression of nftables has for a packet, and whether it is in a set. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from overlayd.lib.addresses import IPAddress, contains, inside, ip_network
from overlayd.ruleset.iptables import same_device
from overlayd.ruleset.walk import Packet, protocol_name


class _Nothing(Enum):
    UNKNOWN = "the value is not known"
    OTHER = "the packet has no such field"


UNKNOWN, OTHER = _Nothing.UNKNOWN, _Nothing.OTHER
_PORTS = ("tcp", "udp", "udplite", "sctp", "dccp")


def value_of(expression: Any, packet: Packet) -> Any:
    """The value of an expression: a text, a number, an address or a tuple of these; UNKNOWN or OTHER."""
    if isinstance(expression, int | str):
        return expression
    value: Any = UNKNOWN
    if isinstance(expression, dict) and len(expression) == 1:
        ((kind, body),) = expression.items()
        match kind:
            case "meta":
                value = _meta(str(body.get("key")), packet)
            case "payload" if "protocol" in body:
                value = _payload(str(body["protocol"]), str(body.get("field")), packet)
            case "ct" if packet.first:
                value = _connection(str(body.get("key")))
            case "fib":
                value = _fib(body, packet)
            case "concat":
                parts = tuple(value_of(part, packet) for part in body)
                value = next((one for one in (OTHER, UNKNOWN) if one in parts), parts)
            case "&" | "|" | "^":
                value = _calculated(kind, *(value_of(part, packet) for part in body[:2]))
    return value


def contained(value: Any, members: Sequence[Any] | None) -> bool | None:
    """Whether a value is among these values, networks and ranges; None where that is not known."""
    if members is None:
        return None
    answers = [_is(value, member) for member in members]
    return True if True in answers else None if None in answers else False


def compared(value: Any, operator: str, other: Any) -> bool | None:
    """Whether `<`, `>`, `<=` or `>=` holds between two numbers; None for other values."""
    number = _number(other)
    if not isinstance(value, int) or number is None:
        return None
    return {"<": value < number, ">": value > number, "<=": value <= number, ">=": value >= number}.get(operator)


def _is(value: Any, member: Any) -> bool | None:
    if isinstance(member, list) and len(member) == 2:
        # An element of a map: a value, and its verdict, which does not matter here.
        member = member[0]
    if not isinstance(member, dict) or len(member) != 1:
        return None if isinstance(value, tuple) else _equal(value, member)
    ((kind, body),) = member.items()
    answer: bool | None = None
    match kind:
        case "elem":
            answer = _is(value, body.get("val"))
        case "prefix":
            answer = _in_prefix(value, body)
        case "range":
            answer = _in_range(value, body)
        case "concat" if isinstance(value, tuple) and len(value) == len(body):
            answers = [_is(part, one) for part, one in zip(value, body, strict=True)]
            answer = False if False in answers else None if None in answers else True
    return answer


def _equal(value: Any, member: Any) -> bool | None:
    if isinstance(value, bool) or isinstance(member, bool):
        return value is member if isinstance(value, bool) and isinstance(member, bool) else None
    if isinstance(value, int):
        number = _number(member)
        return None if number is None else value == number
    if isinstance(value, str):
        return same_device(str(member).replace("*", "+") if str(member).endswith("*") else str(member), value) or (
            protocol_name(member) == value
        )
    address = _address(member)
    if address is None or isinstance(value, IPv4Address | IPv6Address):
        return None if address is None else address == value
    return None if contains(value, address) else False


def _in_prefix(value: Any, body: Any) -> bool | None:
    try:
        if isinstance(value, int):
            # A number is a mark, of 32 bits.
            shift = 32 - int(body["len"])
            return value >> shift == int(body["addr"]) >> shift
        return inside(ip_network((body["addr"], body["len"]), strict=False), value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _in_range(value: Any, body: Any) -> bool | None:
    low, high = (_number(end) if isinstance(value, int) else _address(end) for end in body)
    if low is None or high is None or isinstance(value, str):
        return None
    if getattr(value, "version", 0) != getattr(low, "version", 0):
        return False
    first, last = (value[0], value[-1]) if isinstance(value, IPv4Network | IPv6Network) else (value, value)
    if int(low) <= int(first) and int(last) <= int(high):
        return True
    return None if int(first) <= int(high) and int(low) <= int(last) else False


def _number(text: Any) -> int | None:
    try:
        return int(str(text), 0)
    except ValueError:
        return None


def _address(text: Any) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _meta(key: str, packet: Packet) -> Any:
    known = {
        "iifname": packet.in_device,
        "iif": packet.in_device,
        "oifname": packet.out_device,
        "oif": packet.out_device,
        "nfproto": f"ipv{packet.version}",
        "protocol": "ip" if packet.version == 4 else "ip6",
        "l4proto": UNKNOWN if packet.protocol is None else packet.protocol,
        "mark": UNKNOWN if packet.mark is None else packet.mark,
        "pkttype": "unicast",
    }
    return known.get(key, UNKNOWN)


def _payload(protocol: str, item: str, packet: Packet) -> Any:
    known: dict[str, Any] = {}
    if protocol in ("ip", "ip6"):
        if (protocol == "ip") != (packet.version == 4):
            return OTHER
        known = {"saddr": packet.source, "daddr": packet.destination}
        known |= dict.fromkeys(("protocol", "nexthdr"), packet.protocol)
    elif protocol == "ether":
        known = {"saddr": packet.mac}
    elif packet.protocol is not None:
        if protocol_name(protocol) != packet.protocol and (protocol != "th" or packet.protocol not in _PORTS):
            return OTHER
        known = {"dport": packet.port}
    found = known.get(item)
    return UNKNOWN if found is None else found


def _connection(key: str) -> Any:
    # The packet is the first of a connection to a container's own address, so there was no NAT.
    return {"state": "new", "direction": "original", "status": "none"}.get(key, UNKNOWN)


def _fib(body: Any, packet: Packet) -> Any:
    flags = body.get("flags", [])
    if body.get("result") == "type" and "daddr" in flags and packet.local is not None:
        return "local" if packet.local else "unicast"
    if body.get("result") == "oif" and "saddr" in flags and packet.answered is not None:
        return packet.answered
    return UNKNOWN


def _calculated(kind: str, left: Any, right: Any) -> Any:
    if not isinstance(left, int) or not isinstance(right, int):
        return UNKNOWN
    return {"&": left & right, "|": left | right, "^": left ^ right}[kind]
