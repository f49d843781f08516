"""X25519 (RFC 7748, section 5): the public key that belongs to a private one. Pure.

Not for secrets against somebody on the same machine: Python's integers take a time that depends on their values. Here
it is computed once a start, of a key that whoever could measure it by root's means could as well read; all of
WireGuard's own cryptography is done by the kernel or by wireguard-go.
"""

from __future__ import annotations

P = 2**255 - 19
A24 = 121665
BASE_POINT = (9).to_bytes(32, "little")


def public_key(private_key: bytes) -> bytes:
    """The public key of 32 bytes for a private key of 32 bytes, which need not be clamped."""
    return x25519(private_key, BASE_POINT)


def x25519(scalar: bytes, point: bytes) -> bytes:
    """The Montgomery ladder of the RFC, step by step in its names. Raises ValueError for other than 32 bytes each."""
    if len(scalar) != 32 or len(point) != 32:
        raise ValueError("a key has 32 bytes")
    k = (int.from_bytes(scalar, "little") & (2**254 - 8)) | 2**254
    x_1 = int.from_bytes(point, "little") & (2**255 - 1)
    x_2, z_2, x_3, z_3 = 1, 0, x_1, 1
    swap = 0
    for t in reversed(range(255)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x_2, z_2, x_3, z_3 = x_3, z_3, x_2, z_2
        swap = bit
        a, b, c, d = x_2 + z_2, x_2 - z_2, x_3 + z_3, x_3 - z_3
        aa, bb = a * a % P, b * b % P
        da, cb, e = d * a % P, c * b % P, aa - bb
        x_3, z_3 = (da + cb) ** 2 % P, x_1 * (da - cb) ** 2 % P
        x_2, z_2 = aa * bb % P, e * (aa + A24 * e) % P
    if swap:
        x_2, z_2 = x_3, z_3
    return (x_2 * pow(z_2, P - 2, P) % P).to_bytes(32, "little")
