"""BPF programs that are not overlayd's: an administrator's, of two instructions."""

from __future__ import annotations

import ctypes
import os
import socket

# struct bpf_insn: r0 = TC_ACT_UNSPEC, and exit; r0 = XDP_PASS, and exit.
NOTHING = bytes.fromhex("b7000000ffffffff9500000000000000")
PASS = bytes.fromhex("b7000000020000009500000000000000")
# enum bpf_prog_type; linux/if_link.h: XDP_FLAGS_SKB_MODE
SCHED_CLS, XDP = 3, 6
_SKB_MODE = 1 << 1


def made(instructions: bytes, kind: int = SCHED_CLS) -> int:
    """Load a program; its descriptor."""
    count = ctypes.c_size_t(len(instructions) // 8)
    descriptor = int(_libbpf().bpf_prog_load(kind, b"theirs", b"GPL", instructions, count, None))
    if descriptor < 0:
        raise OSError(-descriptor, os.strerror(-descriptor))
    return descriptor


def attach_xdp(link: str, descriptor: int) -> None:
    """Attach a program of XDP to an interface of this namespace; -1 takes it away."""
    result = _libbpf().bpf_xdp_attach(socket.if_nametoindex(link), descriptor, _SKB_MODE, None)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _libbpf() -> ctypes.CDLL:
    # Of libbpf 1.0 and later, which the test machine has.
    return ctypes.CDLL("libbpf.so.1")
