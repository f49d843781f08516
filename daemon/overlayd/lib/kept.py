"""Values that are read again only where they may be others than before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

Identity = tuple[int, ...]


class Kept(Generic[T]):
    """What `read` found last, until `depends_on` gives something else, and for `rest_s` seconds. For one thread.

    What cannot be seen in `depends_on` is found that late.
    """

    def __init__(
        self,
        read: Callable[[], T],
        depends_on: Callable[[], object],
        *,
        rest_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet. `depends_on` gives values that are compared; `clock` is in seconds."""
        self._read = read
        self._depends_on = depends_on
        self._rest_s = rest_s
        self._clock = clock
        self._found: tuple[object, float, T] | None = None

    def get(self) -> T:
        """The value. Raises what `read` raises, and then reads again the next time."""
        now, state = self._clock(), self._depends_on()
        if self._found is not None:
            state_then, at, value = self._found
            if state == state_then and now - at < self._rest_s:
                return value
        # Not that of after the read: what changes meanwhile has to be seen the next time.
        self._found = None
        value = self._read()
        self._found = (state, now, value)
        return value


def identity(path: Path | str) -> Identity | None:
    """What is another after any change of a file, or of the names in a folder; None where there is none (stat(2))."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def identities(paths: Iterable[str]) -> tuple[Identity | None, ...]:
    """The identity of each path."""
    return tuple(identity(path) for path in paths)
