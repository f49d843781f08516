"""A terminal's alternate screen: drawn as a whole, left as it was found, also after Ctrl-C, Ctrl-Z and SIGTERM.

The sequences are those of xterm that every terminal emulator, the kernel's console, screen and tmux understand
(console_codes(4)); a terminal that lacks one ignores it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Self

# The alternate screen, without cursor; and without line breaks of the terminal's own, so that what is too long, for
# instance for its wide characters, moves no line below.
_ENTER, _LEAVE = "\033[?1049h\033[?25l\033[?7l\033[2J", "\033[0m\033[?7h\033[?25h\033[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW, _PLAIN = "\033[H", "\033[2K", "\033[J", "\033[0m"
STYLES = {"": "", "title": "\033[1m", "bad": "\033[1;31m"}
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_NOT_A_SIZE = os.terminal_size((80, 24))


def is_terminal() -> bool:
    """Whether standard output is a terminal with more than one line."""
    return os.isatty(1) and os.environ.get("TERM", "dumb") != "dumb"


class Screen:
    """The screen for the length of a `with` block. For the main thread.

    Ctrl-C raises KeyboardInterrupt as everywhere; SIGTERM and SIGHUP raise SystemExit with 128 + their number.
    """

    def __init__(self) -> None:
        """Changes nothing yet."""
        self._encoding = "utf-8" if _is_utf8() else "ascii"
        self._mode: list[Any] | None = None
        self._drawn: str | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._wake: tuple[int, int] = (-1, -1)
        self._fd_before = -1

    def __enter__(self) -> Self:
        """Take the terminal."""
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._fd_before = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        handlers: dict[signal.Signals, Any] = dict.fromkeys(_ENDING, self._end)
        handlers |= {signal.SIGWINCH: self._ignore, signal.SIGTSTP: self._suspend}
        self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._take()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Give the terminal back as it was."""
        # A second Ctrl-C must not come between.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._give_back()
        signal.signal(signal.SIGINT, interrupt)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        for fd in self._wake:
            os.close(fd)

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines now."""
        try:
            found = os.get_terminal_size(1)
        except OSError:
            return _NOT_A_SIZE
        # A serial line says 0 and 0.
        return found if found.columns and found.lines else _NOT_A_SIZE

    def draw(self, lines: Iterable[tuple[str, str]]) -> None:
        """Show lines, each with a style of STYLES; no more of them, and none longer, than the screen has room for.

        It is one write, and none where nothing changed. The text must have no control characters.
        """
        size = self.size
        shown = [f"{_CLEAR_LINE}{STYLES[style]}{_cut(text, size.columns)}{_PLAIN}" for style, text in lines]
        # At the end of a full last line the cursor stands on its last character, which must stay.
        below = f"\r\n{_CLEAR_BELOW}" if len(shown) < size.lines else ""
        whole = _HOME + "\r\n".join(shown[: size.lines]) + below
        # A terminal of another size shows something else by itself.
        if (drawn := f"{size}{whole}") != self._drawn:
            try:
                self._write(whole)
            except OSError:
                raise _gone() from None
            self._drawn = drawn

    def wait(self, seconds: float) -> str:
        """Wait for keys, another size, or so long; the keys, else nothing."""
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        if self._mode is not None:
            poll.register(0, select.POLLIN)
        keys = ""
        for fd, events in poll.poll(1000 * seconds):
            try:
                read = os.read(fd, 1024) if events & select.POLLIN else b""
            except OSError:
                read = b""
            if fd == 0:
                keys += read.decode(errors="replace")
                if not read:
                    raise _gone()
        return keys

    def _take(self) -> None:
        self._drawn = None
        if os.isatty(0):
            self._mode = termios.tcgetattr(0)
            mode = termios.tcgetattr(0)
            mode[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(0, termios.TCSADRAIN, mode)
        self._write(_ENTER)

    def _give_back(self) -> None:
        # A terminal that is gone takes neither.
        with contextlib.suppress(OSError):
            self._write(_LEAVE)
        if self._mode is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._mode)

    def _write(self, text: str) -> None:
        left = text.encode(self._encoding, errors="replace")
        while left:
            left = left[os.write(1, left) :]

    def _suspend(self, _signal: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal back, and the screen is drawn again after `fg`."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._take()

    @staticmethod
    def _end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    @staticmethod
    def _ignore(_signal: int, _frame: FrameType | None) -> None:
        """Do nothing: that there is a handler makes the signal end `wait`."""


def _gone() -> SystemExit:
    """The terminal is gone: it ends as by the SIGHUP that usually says so."""
    return SystemExit(128 + signal.SIGHUP)


def _is_utf8() -> bool:
    # locale(7): the first that is set counts.
    said = next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "")
    return "utf-8" in said.lower() or "utf8" in said.lower()


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}>"
