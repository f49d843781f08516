"""Simulates a kernel with WireGuard for one program, which asks for it by generic netlink.

The machine's own may have none. The program's system calls that send and receive are stopped (seccomp_unotify(2), Linux
5.6): a request is noted and goes on to the real kernel, which refuses it, since it is for a family that does not exist;
and in place of that refusal the program receives our answer. So we see byte for byte what wg(8) tells a kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

# asm/unistd.h: seccomp, sendto, recvfrom, recvmsg.
NUMBERS = {"x86_64": (317, 44, 45, 47), "aarch64": (277, 206, 207, 212)}
PIDFD_OPEN, PIDFD_GETFD = 434, 438
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
RET_ALLOW, RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
FLAG_CONTINUE = 1  # the real kernel carries the call out
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags, nr, arch, instruction, arguments
_RESPONSE = struct.Struct("=QqiI")  # id, value, error, flags
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
NLMSG_ERROR, NLMSG_DONE, GENL_ID_CTRL = 2, 3, 16
NLM_F_MULTI, NLM_F_ACK = 2, 4
FAMILY_ID = 1022  # the last but one that there may be: families are numbered from below
CTRL_CMD_NEWFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 1, 2
TIMEOUT_S = 10


@dataclass
class PlayedKernel:
    """Answers requests of the family `wireguard`: a GET with `device`, the payload of a message; a SET with yes, or
    with the errno that `refuses` is.

    `heard` are the payloads of its requests, from the generic netlink header on.
    """

    device: bytes = b""
    refuses: int = 0
    heard: list[bytes] = field(default_factory=list)
    _answers: list[bytes] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
        """Run a program to its end before this kernel; what it printed."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # Between fork and exec nothing may be done safely; so another program does it, which then becomes that one.
            program = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *argv],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=env,
                pass_fds=(theirs.fileno(),),
            )
            _, (listener,), *_ = socket.recv_fds(ours, 1, 1)
        with program:
            try:
                self._answer_until_the_end(listener)
                printed, _ = program.communicate(timeout=TIMEOUT_S)
            finally:
                os.close(listener)
                program.kill()
        assert program.returncode == 0, printed
        return printed

    def _answer_until_the_end(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            ready = poll.poll(TIMEOUT_S * 1000)
            assert ready, "the program hangs"
            if not ready[0][1] & select.POLLIN:
                return
            stopped = bytearray(_NOTIFICATION.size)
            fcntl.ioctl(listener, NOTIF_RECV, stopped)
            number, pid, _, call, _, _, *arguments = _NOTIFICATION.unpack(stopped)
            with (Path("/proc") / str(pid) / "mem").open("r+b", buffering=0) as memory:
                value = self._called(pid, call, memory, arguments)
            response = _RESPONSE.pack(number, value or 0, 0, FLAG_CONTINUE if value is None else 0)
            fcntl.ioctl(listener, NOTIF_SEND, bytearray(response))

    def _called(self, pid: int, call: int, memory: FileIO, arguments: Sequence[int]) -> int | None:
        """What a stopped call returns; None for one that the real kernel carries out."""
        _, sendto, recvfrom, _ = NUMBERS[platform.machine()]
        if call == sendto:
            self._hear(_peek(memory, arguments[1], arguments[2]))
            return None
        if not self._answers:
            return None
        _drain(pid, arguments[0])
        answer = self._answers.pop(0)
        kernel = struct.pack("=HHII", socket.AF_NETLINK, 0, 0, 0)
        if call == recvfrom:
            base, length, name, name_length = arguments[1], arguments[2], arguments[4], arguments[5]
        else:
            # struct msghdr: name, its length, iovec, how many, control, its length, flags; iovec: base, length.
            name, vector = struct.unpack("=Q8xQ", _peek(memory, arguments[1], 24))
            base, length = struct.unpack("=QQ", _peek(memory, vector, 16))
            name_length = arguments[1] + 8
            _poke(memory, arguments[1] + 40, struct.pack("=Qi", 0, 0))
        assert len(answer) <= length
        _poke(memory, base, answer)
        if name:
            _poke(memory, name, kernel)
            _poke(memory, name_length, struct.pack("=I", len(kernel)))
        return len(answer)

    def _hear(self, request: bytes) -> None:
        """Note a request, and what it will be answered, if it is one about WireGuard."""
        _, kind, flags, sequence, _ = _HEADER.unpack_from(request)
        payload = request[_HEADER.size :]
        done = _message(NLMSG_ERROR, sequence, struct.pack("=i", 0) + request[: _HEADER.size])
        if kind == GENL_ID_CTRL:
            name = b"wireguard\0"
            attributes = struct.pack("=HHHxx", 6, CTRL_ATTR_FAMILY_ID, FAMILY_ID)
            attributes += struct.pack("=HH12s", 4 + len(name), CTRL_ATTR_FAMILY_NAME, name)
            found = struct.pack("=BBxx", CTRL_CMD_NEWFAMILY, 1) + attributes
            self._answers.append(_message(GENL_ID_CTRL, sequence, found) + (done if flags & NLM_F_ACK else b""))
        elif kind == FAMILY_ID:
            self.heard.append(payload)
            if payload[0] == 0:  # WG_CMD_GET_DEVICE
                end = _message(NLMSG_DONE, sequence, struct.pack("=i", 0), NLM_F_MULTI)
                self._answers.append(_message(FAMILY_ID, sequence, self.device, NLM_F_MULTI) + end)
            elif self.refuses:
                # Unlike a yes it repeats the whole request (netlink(7)).
                self._answers.append(_message(NLMSG_ERROR, sequence, struct.pack("=i", -self.refuses) + request))
            else:
                self._answers.append(done)


def _drain(pid: int, descriptor: int) -> None:
    """Take what the real kernel answered off a socket of another process."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = libc.syscall(PIDFD_OPEN, pid, 0)
    copy = libc.syscall(PIDFD_GETFD, process, ctypes.c_int(descriptor & 0xFFFFFFFF), 0)
    os.close(process)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    with socket.socket(fileno=copy) as end, contextlib.suppress(BlockingIOError):
        while True:
            end.recv(65536, socket.MSG_DONTWAIT)


def _message(kind: int, sequence: int, payload: bytes, flags: int = 0) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload


def _install(to: socket.socket) -> None:
    """Have the calls of this process stopped, also after exec, and send the end that hears of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp, *stopped = NUMBERS[platform.machine()]
    load_number = struct.pack("=HBBI", 0x20, 0, 0, 0)
    compare = [struct.pack("=HBBI", 0x15, len(stopped) - at, 0, number) for at, number in enumerate(stopped)]
    ends = [struct.pack("=HBBI", 0x06, 0, 0, end) for end in (RET_ALLOW, RET_USER_NOTIF)]
    code = b"".join([load_number, *compare, *ends])
    held = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    socket.send_fds(to, [b"."], [listener])


def _peek(memory: FileIO, address: int, length: int) -> bytes:
    memory.seek(address)
    return memory.read(length)


def _poke(memory: FileIO, address: int, data: bytes) -> None:
    memory.seek(address)
    memory.write(data)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as end:
        _install(end)
    os.execvp(sys.argv[2], sys.argv[2:])
