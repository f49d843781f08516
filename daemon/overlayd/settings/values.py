"""Reads the text of a setting: one function for each kind. They raise ValueError with what is allowed. Pure."""

from __future__ import annotations

import os
import posixpath
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from overlayd.lib.addresses import IPNetwork, ip_network
from overlayd.lib.marks import HIGHEST_NUMBER


def text(value: str) -> str:
    if not value.strip():
        raise ValueError("empty")
    return value.strip()


def flag(value: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[value.strip().lower()]
    except KeyError:
        raise ValueError("true or false") from None


def address(value: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError("an IPv4 address") from None


def address6(value: str) -> IPv6Address:
    try:
        return IPv6Address(value)
    except ValueError:
        raise ValueError("an IPv6 address") from None


def network(value: str) -> IPNetwork:
    try:
        return ip_network(value.strip())
    except ValueError:
        raise ValueError("networks such as 192.0.2.0/24") from None


def any_address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("an IP address") from None


def whole(value: str, low: int, high: int, allowed: str) -> int:
    # str.isdecimal() holds for other alphabets' digits too, and int() refuses very many.
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and low <= int(value) <= high):
        raise ValueError(allowed)
    return int(value)


def port(value: str) -> int:
    return whole(value, 0, 65535, "a port from 1 to 65535, or 0 for none")


def network_number(value: str) -> int:
    # One spelling: it is a part of names of files and units.
    return whole(value if len(value) == 1 else "", 0, HIGHEST_NUMBER, f"a whole number from 0 to {HIGHEST_NUMBER}")


def minutes(value: str) -> int:
    return whole(value, 1, 10**6, "a whole number of minutes above 0")


def prefix(value: str) -> str:
    """As flannel joins it with the names of keys (Go's path.Join): cleaned, and "" for the root, before their slash."""
    cleaned = posixpath.normpath(value.strip())
    if cleaned == "." or not value.isprintable():
        raise ValueError("a path such as /coreos.com/network")
    # POSIX keeps two leading slashes, Go does not.
    return cleaned.replace("//", "/").removesuffix("/")


def path(value: str) -> Path:
    if "\0" in value:
        raise ValueError("a path")
    return Path(value)


def folder(value: str) -> Path:
    if not value.startswith("/") or "\0" in value or os.path.normpath(value) in ("/", "//"):
        raise ValueError("the whole path of a folder, such as /etc/overlayd/extension")
    return Path(os.path.normpath(value))


def positive(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0
    if not 0 < number < 1e9:
        raise ValueError("a number of seconds above 0")
    return number


def rate(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1
    if number and not 0.1 <= number <= 1000:
        raise ValueError("a number a second from 0.1 to 1000, or 0 for none")
    return number


def ttl(value: str) -> int:
    # etcd itself raises shorter ones to its election timeout.
    return whole(value, 5, 10**9, "a whole number of seconds, 5 or more")


def fast_path(value: str) -> str:
    if value not in ("auto", "off"):
        raise ValueError("auto or off")
    return value


def docker_restart(value: str) -> str:
    if value not in ("idle", "never", "always"):
        raise ValueError("idle, never or always")
    return value


def firewall(value: str) -> str:
    word = value.strip().lower()
    # In 0.1 it was true or false.
    if word in ("auto", "iptables", "nftables", "none"):
        return word
    try:
        return "auto" if flag(word) else "none"
    except ValueError:
        raise ValueError("auto, iptables, nftables or none") from None
