"""How a command is declared: its name, help, flags and needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from overlayd.lib.quick_dataclass import dataclass
from overlayd.settings import Settings


def _no_flags(_parser: argparse.ArgumentParser) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One thing to do, by a command or by one of its verbs.

    `run` does it and returns the exit status. `add_flags` gives a parser the flags that it takes beside the settings.
    """

    name: str
    help: str
    """What it does, in a line of the help text."""
    manual: str
    """What the manual page says beside that, in sentences; empty for nothing."""
    needs_root: str | None
    """Why it has to be run as root, as the end of a sentence that begins with the command; None: it has not."""
    needs_etcd: bool
    """Whether it fails, or waits, where etcd does not answer."""
    run: Callable[[Settings, argparse.Namespace], int]
    add_flags: Callable[[argparse.ArgumentParser], None] = _no_flags
    without_settings: bool = False
    """Whether it goes on with the default settings for a user who may not read the settings file."""


@dataclass(frozen=True, kw_only=True)
class Verbs:
    """A command that does nothing without a verb. `metavar` stands for the verb in the help text."""

    name: str
    help: str
    verbs: tuple[Verb, ...]
    metavar: str = "VERB"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command and its place in the help text and the manual page: lower numbers come first."""

    place: int
    does: Verb | Verbs
