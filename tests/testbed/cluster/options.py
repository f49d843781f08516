"""What is typed on a command line, as values. Pure: no I/O.

Invoke would read numbers itself, and answer a wrong one with a traceback.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from images.machine.kernels import SUITES
from overlayd.errors import ConfigError


def whole_number(key: str, text: str) -> int:
    """A number of at least 1. Raises ConfigError with the key, the value, and what is allowed."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ConfigError(f"{key} is {text!r}", hint="allowed: a whole number of at least 1")
    return int(text)


def kernel(text: str) -> str:
    """The version of a kernel that machines can boot, or none. Raises ConfigError with what is allowed."""
    if text and text not in SUITES:
        raise ConfigError(f"kernel is {text!r}", hint=f"allowed: {', '.join(SUITES)}; without it the disk's own")
    return text


def underlay(text: str) -> IPv4Network:
    """The subnet of an underlay. Raises ConfigError with the key, the value, and what is allowed."""
    try:
        found = IPv4Network(text)
    except ValueError as error:
        raise ConfigError(
            f"underlay is {text!r}: {error}", hint="allowed: an IPv4 subnet with its length, as 198.18.7.0/24"
        ) from error
    if "/" not in text or found.is_loopback or found.is_multicast or found.is_link_local or found.is_unspecified:
        raise ConfigError(f"underlay is {text!r}", hint="allowed: a subnet that hosts may have, as 198.18.7.0/24")
    return found
