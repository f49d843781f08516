"""What a certificate says of itself: whose it is, which names it is for, and when it is valid (RFC 5280). Pure.

Python's ssl module decodes only CA certificates and the chain of a verified peer; what doctor is asked about is a
client's own file or a peer that does not verify. Only a few fields are read here, for messages; whether a certificate
is to be trusted is OpenSSL's to say, in a real handshake.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address

from overlayd.lib.quick_dataclass import dataclass

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _OCTETS = 0x30, 0x17, 0x18, 0x04
_EXTENSIONS, _VERSION = 0xA3, 0xA0
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_COMMON_NAME = bytes.fromhex("0603550403")
_ALTERNATIVE_NAMES = bytes.fromhex("0603551d11")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One certificate. `names` are DNS names and addresses of subjectAltName; `subject` is the common name, if any."""

    subject: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime


def read_pem(text: str) -> tuple[Certificate, ...]:
    """Every certificate in a PEM file. Raises ValueError for one that is none."""
    try:
        return tuple(read_der(base64.b64decode(found, validate=False)) for found in _PEM.findall(text))
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def read_der(der: bytes) -> Certificate:
    """One certificate. Raises ValueError."""
    try:
        (_tag, whole), *_rest = _items(der)
        (_tag, signed), *_rest = _items(whole)
        parts = [item for item in _items(signed) if item[0] != _VERSION]
        _serial, _algorithm, _issuer, (_tag, validity), (_tag, subject), _key, *optional = parts
        before, after = (_time(tag, value) for tag, value in _items(validity))
        return Certificate(subject=_common_name(subject), names=_names(optional), not_before=before, not_after=after)
    except (IndexError, TypeError) as error:
        raise ValueError(f"not a certificate: {error}") from None


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements one after the other, as tag and content (X.690, definite lengths)."""
    at = 0
    while at < len(data):
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[at + 2 : start])
        if start + length > len(data):
            raise ValueError("cut short")
        yield tag, data[start : start + length]
        at = start + length


def _time(tag: int, value: bytes) -> datetime:
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError(f"no time, but tag {tag}")
    # RFC 5280, 4.1.2.5: always UTC with seconds; a UTCTime's year below 50 is of this century.
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = f"{'20' if int(text[:2]) < 50 else '19'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _common_name(subject: bytes) -> str:
    for _tag, names in _items(subject):
        for _tag, pair in _items(names):
            if pair.startswith(_COMMON_NAME):
                *_type, (_tag, value) = _items(pair)
                return value.decode("utf-8", "replace")
    return ""


def _names(optional: list[tuple[int, bytes]]) -> tuple[str, ...]:
    found: list[str] = []
    for tag, wrapped in optional:
        if tag != _EXTENSIONS:
            continue
        for _tag, extensions in _items(wrapped):
            for _tag, extension in _items(extensions):
                if extension.startswith(_ALTERNATIVE_NAMES):
                    octets = next(value for tag, value in _items(extension) if tag == _OCTETS)
                    ((_tag, general_names),) = _items(octets)
                    found += [name for tag, value in _items(general_names) if (name := _name(tag, value))]
    return tuple(found)


def _name(tag: int, value: bytes) -> str | None:
    if tag == _DNS_NAME:
        return value.decode("ascii", "replace")
    if tag == _IP_ADDRESS and len(value) in (4, 16):
        return str(ip_address(value))
    return None
