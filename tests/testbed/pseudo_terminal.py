"""A program on a pseudo-terminal, and the screen that a person would see there: pyte draws it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pyte

from overlayd.errors import OverlaydError
from tests.testbed.polling import eventually

ALTERNATE, NORMAL = b"\033[?1049h", b"\033[?1049l"


class PseudoTerminal:
    """A terminal with one program in its foreground, for the length of a `with` block."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        columns: int = 100,
        lines: int = 30,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Values only; the block starts the program."""
        self._argv = list(argv)
        self._environment = dict(os.environ if environment is None else environment) | {"TERM": "xterm"}
        self._size = (columns, lines)
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.raw = b""
        """All that the program has written."""

    def __enter__(self) -> Self:
        """Start the program."""
        self._master, self._slave = pty.openpty()
        self._set_size()
        self._mode = termios.tcgetattr(self._slave)
        self._process = subprocess.Popen(
            self._argv,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=self._environment,
            start_new_session=True,
            # Ctrl-C, Ctrl-Z and SIGWINCH reach the foreground of its controlling terminal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._slave)
        self._thread.join()
        os.close(self._master)

    @property
    def pid(self) -> int:
        """The program's process."""
        return self._process.pid

    @property
    def display(self) -> list[str]:
        """The lines on the screen, without blanks at their ends."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.display)

    @property
    def cursor_hidden(self) -> bool:
        """Whether the cursor is not shown."""
        with self._lock:
            return self._screen.cursor.hidden

    @property
    def as_it_was(self) -> bool:
        """Whether the terminal is on its normal screen, with its cursor, in the mode that it had before."""
        mode = termios.tcgetattr(self._slave)
        return mode == self._mode and self.raw.rfind(NORMAL) >= self.raw.rfind(ALTERNATE) and not self.cursor_hidden

    def shows(self, *words: str) -> str:
        """Wait until the screen has all these words; its text then."""
        try:
            return eventually(f"{words} on the screen", lambda: self._with(words))
        except OverlaydError as error:
            raise AssertionError(f"{error}\n{self.text}") from error

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size."""
        self._size = (columns, lines)
        with self._lock:
            self._screen.resize(lines, columns)
        self._set_size()

    def wait(self) -> int:
        """Wait for the program's end; its exit status."""
        return self._process.wait(20)

    def _with(self, words: Sequence[str]) -> str:
        text = self.text
        return text if all(word in text for word in words) else ""

    def _set_size(self) -> None:
        columns, lines = self._size
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                data: Any = os.read(self._master, 65536)
            except OSError:
                # Nobody has the other end open any more.
                return
            with self._lock:
                self.raw += data
                self._stream.feed(data)
