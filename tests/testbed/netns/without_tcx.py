"""Run a program as on a kernel before Linux 6.6: bpf(2) knows neither TCX nor any other program of an interface.

python -m tests.testbed.netns.without_tcx PROGRAM ARGUMENT...
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

# seccomp.h; commands of linux/bpf.h: BPF_PROG_ATTACH, BPF_PROG_DETACH, BPF_PROG_QUERY
_ALLOW, _ERRNO, _EQUAL = 0x7FFF0000, 0x00050000, 4
_COMMANDS = (8, 9, 16)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def refuse() -> None:
    """Have the kernel refuse these commands to this process, for good."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ALLOW))
    number = seccomp.seccomp_syscall_resolve_name(b"bpf")
    for command in _COMMANDS:
        rule = _Comparison(0, _EQUAL, command, 0)
        done = seccomp.seccomp_rule_add_array(context, _ERRNO | errno.EINVAL, number, 1, ctypes.pointer(rule))
        assert done == 0, f"seccomp refused the rule for command {command} of bpf(2): {done}"
    assert seccomp.seccomp_load(context) == 0, "seccomp refused the filter"


if __name__ == "__main__":
    refuse()
    os.execvp(sys.argv[1], sys.argv[1:])
