"""Which way packets between containers go while they are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

# A daemon turns the fast path on as soon as there is a bridge.
_PATIENCE_S = 15.0


def decided(status: Callable[[], Mapping[str, Any]]) -> str:
    """Wait until a host's fast path is on; `on`, or why it still is not after a while."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        said = str(status().get("fast_path"))
        if said == "on" or time.monotonic() > deadline:
            return said
        time.sleep(0.2)
