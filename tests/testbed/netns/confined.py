"""Run a program as confined as the unit confines it, as far as a machine without systemd as PID 1 can do that.

    python -m tests.testbed.netns.confined UNIT WRITABLE... -- PROGRAM ARGUMENT...

Read from the unit: CapabilityBoundingSet, NoNewPrivileges, UMask, MemoryDenyWriteExecute, RestrictAddressFamilies,
SystemCallFilter with systemd's own groups, LimitCORE, ProtectHome, ReadWritePaths; all else is readable only, as
ProtectSystem=strict and ProtectKernelTunables= have it.
Not read: what needs mounts that would hide the tests' own files (PrivateTmp, ProtectProc), devices, namespaces, and
what needs a control group (MemoryMax, TasksMax).
It must run in a mount namespace of its own, which `ip netns exec` makes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# linux/prctl.h, linux/capability.h, linux/mount.h, seccomp.h
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 24, 38, 65, 1
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")
_MOUNT_SETATTR, _AT_RECURSIVE, _AT_FDCWD, _RDONLY = 442, 0x8000, -100, 1
_MS_BIND, _MS_REC = 4096, 16384
_ALLOW, _ERRNO, _EQUAL = 0x7FFF0000, 0x00050000, 4

_libc = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def read_unit(path: Path) -> dict[str, str]:
    """The unit's assignments; a key given twice has its values joined. A tilde before a list goes before each word."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            if value.startswith("~"):
                value = " ".join(f"~{word}" for word in value[1:].split())
            found[key] = f"{found[key]} {value}" if key in found else value
    return found


def confine(unit: dict[str, str], writable: Iterable[str]) -> None:
    """Take from this process, for good, what the unit takes."""
    allowed = [path.removeprefix("-") for path in unit.get("ReadWritePaths", "").split()]
    if unit.get("ProtectHome") == "yes":
        for path in ("/home", "/root"):
            _check(_libc.mount(b"tmpfs", path.encode(), b"tmpfs", _RDONLY, b"mode=0"), f"mount {path}")
    tunables = ["/proc/sys"] if unit.get("ProtectKernelTunables") == "yes" else []
    _bind({"/": True})
    _bind(dict.fromkeys([*writable, "/dev", "/proc", *([] if tunables else ["/sys"])], False))
    _bind(dict.fromkeys(tunables, True))
    _bind(dict.fromkeys(allowed, False))
    resource.setrlimit(resource.RLIMIT_CORE, (int(unit.get("LimitCORE", "-1")),) * 2)
    os.umask(int(unit.get("UMask", "0022"), 8))
    kept = {_CAPABILITIES[name] for name in unit["CapabilityBoundingSet"].split()}
    for number in range(int(_LAST_CAPABILITY.read_text()) + 1):
        if number not in kept:
            _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), f"dropping capability {number}")
    if unit.get("NoNewPrivileges") == "yes":
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    if unit.get("MemoryDenyWriteExecute") == "yes":
        _check(_libc.prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0), "PR_SET_MDWE")
    _filter(unit.get("SystemCallFilter", ""), unit.get("RestrictAddressFamilies", ""))


def _bind(read_only: Mapping[str, bool]) -> None:
    """Make each path a mount of its own, to be written to or not, with all below it."""
    for path in (path.encode() for path in read_only if path != "/"):
        _check(_libc.mount(path, path, None, _MS_BIND | _MS_REC, None), f"mount --rbind {path.decode()}")
    for name, on in read_only.items():
        _set_read_only(name.encode(), on=on)


def _set_read_only(path: bytes, *, on: bool) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = struct.pack("QQQQ", _RDONLY if on else 0, 0 if on else _RDONLY, 0, 0)
    done = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, attributes, len(attributes))
    _check(done, f"mount_setattr {path.decode()}")


def _filter(listed: str, families: str) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ALLOW))
    if words := listed.split():
        assert words[0].startswith("~"), "a list of what is allowed would allow nothing on a systemd before 231"
        # As systemd does it: a word without a tilde takes calls off the list.
        taken_off = set(_calls(word for word in words if not word.startswith("~")))
        for name in set(_calls(word[1:] for word in words if word.startswith("~"))) - taken_off:
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            # Negative: no system call of this architecture.
            if number >= 0:
                seccomp.seccomp_rule_add(context, _ERRNO | errno.EPERM, number, 0)
    allowed = {int(getattr(socket, name)) for name in families.split()}
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in range(46) if allowed else ():
        if family not in allowed:
            rule = _Comparison(0, _EQUAL, family, 0)
            done = seccomp.seccomp_rule_add_array(context, _ERRNO | errno.EAFNOSUPPORT, number, 1, ctypes.pointer(rule))
            assert done == 0, f"seccomp refused the rule for address family {family}: {done}"
    assert seccomp.seccomp_load(context) == 0, "seccomp refused the filter"


def _calls(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if not name.startswith("@"):
            yield name
            continue
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
        )
        words = (line.strip() for line in listed.stdout.splitlines()[1:])
        yield from _calls(word for word in words if word and not word.startswith("#"))


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _interpreter(unit: Mapping[str, str]) -> str:
    """The Python to go on with: the system's own of this version where this one lies in a home that is closed."""
    closed = unit.get("ProtectHome") == "yes" and Path(sys.base_prefix).parts[1:2] in (("root",), ("home",))
    if not closed:
        return sys.executable
    os.environ["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}:{sysconfig.get_path('purelib')}"
    return f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"


if __name__ == "__main__":
    end = sys.argv.index("--")
    unit = read_unit(Path(sys.argv[1]))
    argv = [_interpreter(unit) if word == sys.executable else word for word in sys.argv[end + 1 :]]
    confine(unit, sys.argv[2:end])
    os.execvp(argv[0], argv)
