"""QEMU: machines as processes that are known by the files they were started with, also after a crash of ours."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from images.machine.kernels import Kernel
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.lib import process
from tests.testbed.polling import eventually

# Debian's, and the one of EL.
_PROGRAMS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
_KVM_TRIAL_S = 10.0
_START_S = 60.0
_ENDED_S = 20.0


def program() -> str:
    """The program. Raises OverlaydError where it is not installed."""
    for name in _PROGRAMS:
        if found := shutil.which(name):
            return found
    raise OverlaydError("QEMU is not installed, and machines need it", hint="`make system` installs what is missing")


@functools.cache
def accelerator(kernel: Kernel) -> str:
    """`kvm` where a kernel boots with it within 10 s, else `tcg`, which is emulation; tried once in this process.

    That /dev/kvm is there says little: where it is nested, its guests may hang.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with tempfile.TemporaryDirectory(prefix="overlayd-kvm-") as name:
        folder = Path(name)
        console = folder / "console.log"
        options = ["-m", "256", "-kernel", str(kernel.image), "-append", "console=ttyS0 earlyprintk=ttyS0"]
        try:
            start(folder, ["-machine", "pc,accel=kvm", "-cpu", "host", *options], monitor=folder / "monitor")
            eventually("a kernel boots", lambda: b"Linux version" in console.read_bytes(), timeout_s=_KVM_TRIAL_S)
        except OverlaydError:
            return "tcg"
        finally:
            kill(folder)
    return "kvm"


def start(folder: Path, options: list[str], *, monitor: Path) -> None:
    """Start a machine, which goes on when this process ends. Its console is kept in `folder`/console.log.

    Raises CommandFailed with what QEMU said. It is known by `folder`: `running`, `kill`.
    """
    process.run(
        [
            *(program(), "-no-user-config", "-nodefaults", "-display", "none", "-vga", "none", "-daemonize"),
            *("-pidfile", str(_pidfile(folder)), "-monitor", f"unix:{monitor},server=on,wait=off"),
            *("-chardev", f"file,id=console,path={folder}/console.log,append=on", "-serial", "chardev:console"),
            *options,
        ],
        timeout_s=_START_S,
    )


def running(folder: Path) -> list[int]:
    """The processes of the machine of a folder: one, or none."""
    mark = str(_pidfile(folder)).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if mark in words and b"-daemonize" in words:
                    found.append(int(entry.name))
    return found


def kill(folder: Path) -> int:
    """End the machine of a folder as a power cut does, and wait until it is gone; how many processes that were."""
    count = 0
    deadline = time.monotonic() + _ENDED_S
    while found := running(folder):
        count = max(count, len(found))
        for number in found:
            with _held(number) as held:
                # The number may be another process's by now, but not while we hold it.
                if held is not None and number in running(folder):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise OverlaydError(f"the machine in {folder} does not end: process {found[0]}")
        time.sleep(0.05)
    return count


def tell(monitor: Path, command: str) -> None:
    """Give a command to a machine's monitor (QEMU's human monitor). Raises CommandFailed where none listens."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(monitor))
            received = b""
            for text in ("", f"{command}\n"):
                connection.sendall(text.encode())
                while not received.endswith(b"(qemu) "):
                    if not (chunk := connection.recv(4096)):
                        break
                    received += chunk
                received = b""
    except OSError as error:
        raise CommandFailed(f"the machine's monitor {monitor}: {error.strerror or error}") from error


@contextlib.contextmanager
def _held(number: int) -> Iterator[int | None]:
    try:
        held = os.pidfd_open(number)
    except ProcessLookupError:
        yield None
        return
    try:
        yield held
    finally:
        os.close(held)


def _pidfile(folder: Path) -> Path:
    return folder / "qemu.pid"
