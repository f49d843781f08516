"""BPF programs at the two ends of an interface by TCX (Linux 6.6), which needs no queueing discipline: no packet waits.

By bpf(2) itself, as libbpf has the flags only from 1.3 on. It takes CAP_NET_ADMIN. A program that is attached without a
link stays when the process that attached it ends, until it is detached or the interface is gone.
Another process's program is detached by its place in the row, which nobody may have changed since it was read: to get a
descriptor by its id would take CAP_SYS_ADMIN, which the unit has not.

Source: include/uapi/linux/bpf.h, kernel/bpf/mprog.c, kernel/bpf/tcx.c of Linux 6.18.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping

from overlayd.kernel.tc import Direction
from overlayd.lib.quick_dataclass import dataclass

# syscall(2); on other architectures there is no TCX for us.
_BPF: Mapping[str, int] = {"x86_64": 321, "aarch64": 280}
_PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _GET_INFO_BY_FD, _PROG_QUERY = 8, 9, 13, 15, 16
_TYPES = {Direction.INGRESS: 46, Direction.EGRESS: 47}
_BEFORE, _AFTER, _ID = 1 << 3, 1 << 4, 1 << 5
# BPF_MPROG_MAX: as many programs can be in a row.
_MOST = 64
# How often a row that others change meanwhile is read again.
_TRIES = 5
# interface, descriptor, type, flags, replaced descriptor, id that the place is told by, revision
_CHANGE = struct.Struct("=IIIIIIQ")
# interface, type, flags, flags of the row, pointer to ids, their count, padding, three pointers, revision
_QUERY = struct.Struct("=IIIIQIIQQQQ")
# struct bpf_prog_info, of which the type, the id and the name are read.
_INFO_BYTES, _ID_AT, _NAME_AT, _NAME_BYTES = 80, 4, 64, 16
_TO_INFO = struct.Struct("=IIQ")  # descriptor, length, pointer


@dataclass(frozen=True, kw_only=True)
class Row:
    """The programs at one end of an interface by their ids, in the order in which they see a packet.

    `revision` is another number after each change.
    """

    revision: int = 0
    ids: tuple[int, ...] = ()


def read(index: int, direction: Direction) -> Row | None:
    """The programs there, whosever they are; None where this kernel has no TCX. Raises OSError: ENODEV."""
    ids = (ctypes.c_uint32 * _MOST)()
    request = _QUERY.pack(index, _TYPES[direction], 0, 0, ctypes.addressof(ids), _MOST, 0, 0, 0, 0, 0)
    try:
        _result, answer = _bpf(_PROG_QUERY, request)
    except OSError as error:
        # EINVAL: there is no such type. EPERM, ENOSYS: a container whose bpf(2) is closed.
        if error.errno in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
            return None
        # Linux 6.6.0 says so of an interface without any program.
        if error.errno == errno.ENOENT:
            return Row()
        raise
    *_rest, count, _padding, _one, _two, _three, revision = _QUERY.unpack(answer)
    return Row(revision=revision, ids=tuple(ids[:count]))


def attach(index: int, direction: Direction, program_fd: int, *, after: int | None = None) -> None:
    """Put a program there, after the one with that id, or else after all that are there. Raises OSError."""
    place = (0, 0) if after is None else (_AFTER | _ID, after)
    flags, relative = place
    _bpf(_PROG_ATTACH, _CHANGE.pack(index, program_fd, _TYPES[direction], flags, 0, relative, 0))


def detach(index: int, direction: Direction, program: int) -> bool:
    """Take the program with that id away, whoever attached it without a link; whether it was there. Raises OSError."""
    for _ in range(_TRIES):
        row = read(index, direction)
        if row is None or program not in row.ids:
            return False
        at = row.ids.index(program)
        flags, relative = _BEFORE, 0
        if 0 < at < len(row.ids) - 1:
            flags, relative = _BEFORE | _ID, row.ids[at + 1]
        elif at:
            flags = _AFTER
        try:
            _bpf(_PROG_DETACH, _CHANGE.pack(index, 0, _TYPES[direction], flags, 0, relative, row.revision))
        except OSError as error:
            # ESTALE: another revision by now. ENOENT: the one that told the place is gone.
            if error.errno in (errno.ESTALE, errno.ENOENT):
                continue
            raise
        return True
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def id_of(program_fd: int) -> int:
    """The id of a program, which no other one has until the next boot. Raises OSError."""
    return int(struct.unpack_from("=I", _info(program_fd), _ID_AT)[0])


def name_of(program: int) -> str | None:
    """The name of the program with that id; None where it is gone, and without CAP_SYS_ADMIN."""
    try:
        descriptor, _ = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program, 0, 0))
    except OSError:
        return None
    try:
        return _info(descriptor)[_NAME_AT : _NAME_AT + _NAME_BYTES].partition(b"\0")[0].decode("ascii", "replace")
    finally:
        os.close(descriptor)


def _info(descriptor: int) -> bytes:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_GET_INFO_BY_FD, _TO_INFO.pack(descriptor, _INFO_BYTES, ctypes.addressof(info)))
    return info.raw


def _bpf(command: int, request: bytes) -> tuple[int, bytes]:
    """One call of bpf(2): what it returned, and the request as the kernel left it. Raises OSError."""
    number = _BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    buffer = ctypes.create_string_buffer(request, len(request))
    result = ctypes.CDLL(None, use_errno=True).syscall(number, command, buffer, len(request))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result), buffer.raw
