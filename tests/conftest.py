"""For all tests."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.nightly import rotation

# No deadline for one example: the machine is shared, and its times say nothing. In CI every run tries the same ones;
# elsewhere each tries new ones. A failure prints the blob that brings it back.
settings.register_profile("usual", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("usual"), derandomize=True, max_examples=60)
# `make check` takes it: a few examples of each find what is broken at all.
settings.register_profile("few", settings.get_profile("usual"), max_examples=20)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "usual")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a night, leave out those of the slow tests that other nights have."""
    if date := os.environ.get(rotation.VARIABLE):
        left_out = [item for item in items if not _in_the_night(item, date)]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _in_the_night(item: pytest.Item, date: str) -> bool:
    """Whether a test is one of that night's. Raises UsageError for one of machines that no night has."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    function = getattr(item, "originalname", item.name)
    found = rotation.is_in(date, rotation.names(item.path.stem, function, params))
    if found is None and "tests/machines/" in str(item.path):
        raise pytest.UsageError(f"{item.nodeid} is in no night: add it to {rotation.__file__}")
    return found is not False


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C be Ctrl-C for what the tests start, also where the shell that started us ignores it; and git be git.

    A shell without job control starts background commands with SIGINT ignored (POSIX, 2.11), and children inherit that.
    The git that tests start reads a checkout of another user's too (git-config(1), safe.directory).
    """
    number, name = tempfile.mkstemp(prefix="overlayd-gitconfig-")
    config.add_cleanup(lambda: Path(name).unlink(missing_ok=True))
    with os.fdopen(number, "w") as file:
        file.write("[safe]\n\tdirectory = *\n")
    # A variable that holds the setting itself would not reach the other end of a clone.
    os.environ["GIT_CONFIG_GLOBAL"] = name
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
