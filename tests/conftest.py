"""For all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let Ctrl-C be Ctrl-C for what the tests start, also where the shell that started us ignores it.

    A shell without job control starts background commands with SIGINT ignored (POSIX, 2.11), and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
