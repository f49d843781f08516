"""What is not a public key is refused with its reason."""

from __future__ import annotations

import base64

import pytest

from images.bases import keys
from images.engine.errors import BuildError


def armoured(packets: bytes) -> bytes:
    body = base64.b64encode(packets)
    return b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + body + b"\n-----END PGP PUBLIC KEY BLOCK-----\n"


def test_a_fingerprint_is_the_same_in_both_packet_formats() -> None:
    body = b"\x04" + b"0" * 40
    old = keys.fingerprint(armoured(b"\x98" + bytes([len(body)]) + body))
    new = keys.fingerprint(armoured(b"\xc6" + bytes([len(body)]) + body))
    assert old == new
    assert len(old) == 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not found</html>", "not an armoured"),
        (armoured(b"\x98\xff\x04"), "cut short"),
        (armoured(b""), "not an armoured|cut short"),
        (armoured(b"\x88\x02\x04\x00"), "packet of type 2"),
        (armoured(b"\x98\x02\x05\x00"), "version 5"),
    ],
)
def test_what_is_no_key_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BuildError, match=reason):
        keys.fingerprint(content)
