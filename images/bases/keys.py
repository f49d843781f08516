"""Public keys of package repositories: taken only when their fingerprint is the expected one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import urllib.error
import urllib.request

from images.bases.base import Repository
from images.engine.errors import BuildError

_TIMEOUT_S = 20.0
_ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n(?P<body>.*?)"
    rb"\r?\n(?:=[A-Za-z0-9+/]{4}\r?\n)?-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)


def fetch(repository: Repository) -> bytes:
    """The armoured public key of a repository. Raises BuildError when it does not come or is another key."""
    try:
        with urllib.request.urlopen(repository.key_url, timeout=_TIMEOUT_S) as answer:
            armoured: bytes = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise BuildError(f"the key of {repository.name} did not come from {repository.key_url}: {error}") from error
    found = fingerprint(armoured)
    if found != repository.key_fingerprint:
        raise BuildError(
            f"{repository.key_url} holds the key {found}; {repository.name} has {repository.key_fingerprint}",
            hint="compare both with what the distribution publishes; nothing was installed",
        )
    return armoured


def fingerprint(armoured: bytes) -> str:
    """The fingerprint of the first key in an armoured block, in upper case. Raises BuildError for anything else.

    Version 4: SHA-1 over 0x99, the packet's length in two bytes, and its body (RFC 4880, sections 4.2 and 12.2).
    """
    block = _ARMOR.search(armoured.replace(b"\r\n", b"\n"))
    if block is None:
        raise BuildError("not an armoured OpenPGP public key")
    try:
        packets = base64.b64decode(b"".join(block["body"].split()), validate=True)
        body = _first_packet(packets, tag=6)
    except (binascii.Error, IndexError) as error:
        raise BuildError("an armoured OpenPGP public key that is cut short") from error
    if body[0] != 4:
        raise BuildError(f"an OpenPGP key of version {body[0]}, and only version 4 is known here")
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()


def _first_packet(packets: bytes, *, tag: int) -> bytes:
    head = packets[0]
    if head & 0x40:  # new format
        found, first = head & 0x3F, packets[1]
        if first < 192:
            start, length = 2, first
        elif first < 224:
            start, length = 3, ((first - 192) << 8) + packets[2] + 192
        else:
            start, length = 6, int.from_bytes(packets[2:6], "big")
    else:
        found, size = (head & 0x3C) >> 2, 1 << (head & 3)
        start, length = 1 + size, int.from_bytes(packets[1 : 1 + size], "big")
    if not head & 0x80 or found != tag:
        raise BuildError(f"OpenPGP data that begins with a packet of type {found}, not a public key")
    body = packets[start : start + length]
    if len(body) != length or not body:
        raise IndexError(length)
    return body
