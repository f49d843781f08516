"""What an expression of nftables is worth for a packet, and whether a value is among others. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from ipaddress import ip_address
from typing import Any

from overlayd.lib.addresses import IPAddress, contains, ip_network
from overlayd.ruleset.iptables import same_device
from overlayd.ruleset.walk import Packet, protocol_name


class _Nothing(Enum):
    UNKNOWN = "it cannot be said"
    OTHER = "the packet has nothing of this kind"


UNKNOWN, OTHER = _Nothing.UNKNOWN, _Nothing.OTHER
_PORTS = ("tcp", "udp", "udplite", "sctp", "dccp")


def value_of(expression: Any, packet: Packet) -> Any:
    """A text, a number, an address or a tuple of these; UNKNOWN or OTHER."""
    if isinstance(expression, int | str):
        return expression
    value: Any = UNKNOWN
    if isinstance(expression, dict) and len(expression) == 1:
        ((kind, said),) = expression.items()
        match kind:
            case "meta":
                value = _meta(str(said.get("key")), packet)
            case "payload" if "protocol" in said:
                value = _payload(str(said["protocol"]), str(said.get("field")), packet)
            case "ct":
                value = _connection(str(said.get("key")))
            case "fib":
                value = _fib(said, packet)
            case "concat":
                parts = tuple(value_of(part, packet) for part in said)
                value = next((one for one in (OTHER, UNKNOWN) if one in parts), parts)
            case "&" | "|" | "^":
                value = _calculated(kind, *(value_of(part, packet) for part in said[:2]))
    return value


def contained(value: Any, members: Sequence[Any] | None) -> bool | None:
    """Whether a value is one of these, or in one of these networks and ranges; None where that cannot be said."""
    if members is None:
        return None
    answers = [_is(value, member) for member in members]
    return True if True in answers else None if None in answers else False


def compared(value: Any, operator: str, other: Any) -> bool | None:
    """Whether `<`, `>`, `<=` or `>=` holds between two numbers; None for all else."""
    number = _number(other)
    if not isinstance(value, int) or number is None:
        return None
    return {"<": value < number, ">": value > number, "<=": value <= number, ">=": value >= number}.get(operator)


def _is(value: Any, member: Any) -> bool | None:
    if isinstance(member, list) and len(member) == 2:
        # An element of a map, which is matched without its verdict.
        member = member[0]
    if not isinstance(member, dict) or len(member) != 1:
        return None if isinstance(value, tuple) else _equal(value, member)
    ((kind, said),) = member.items()
    answer: bool | None = None
    match kind:
        case "elem":
            answer = _is(value, said.get("val"))
        case "prefix":
            answer = _in_prefix(value, said)
        case "range":
            answer = _in_range(value, said)
        case "concat" if isinstance(value, tuple) and len(value) == len(said):
            answers = [_is(part, one) for part, one in zip(value, said, strict=True)]
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
    return None if address is None else address == value


def _in_prefix(value: Any, said: Any) -> bool | None:
    try:
        if isinstance(value, int):
            # Of 32 bits, as marks are.
            shift = 32 - int(said["len"])
            return value >> shift == int(said["addr"]) >> shift
        return contains(ip_network((said["addr"], said["len"]), strict=False), value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _in_range(value: Any, said: Any) -> bool | None:
    low, high = (_number(end) if isinstance(value, int) else _address(end) for end in said)
    if low is None or high is None or isinstance(value, str):
        return None
    return getattr(value, "version", 0) == getattr(low, "version", 0) and int(low) <= int(value) <= int(high)


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
    # The first packet of a connection to a container's own address: nothing was translated.
    return {"state": "new", "direction": "original", "status": "none"}.get(key, UNKNOWN)


def _fib(said: Any, packet: Packet) -> Any:
    flags = said.get("flags", [])
    if said.get("result") == "type" and "daddr" in flags and packet.local is not None:
        return "local" if packet.local else "unicast"
    if said.get("result") == "oif" and "saddr" in flags and packet.answered is not None:
        return packet.answered
    return UNKNOWN


def _calculated(kind: str, left: Any, right: Any) -> Any:
    if not isinstance(left, int) or not isinstance(right, int):
        return UNKNOWN
    return {"&": left & right, "|": left | right, "^": left ^ right}[kind]
