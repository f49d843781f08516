"""Shell completion, by shtab, from the program's parser and what the settings table says of values."""

from __future__ import annotations

import argparse

import shtab

from overlayd import cli
from rpm.docs import program

# Where each shell looks, below /usr/share.
PLACES = {
    "bash": "bash-completion/completions/overlayd",
    "zsh": "zsh/site-functions/_overlayd",
    "fish": "fish/vendor_completions.d/overlayd.fish",
}
_FILES = ("FILE", "CAFILE", "CERTFILE", "KEYFILE")


def complete(shell: str) -> str:
    """The completion script for one of the shells in PLACES. The same parser gives the same text."""
    parser = cli.parser()
    for below in program.leaves(parser):
        _teach(below)
    text: str = shtab.complete(parser, shell)
    return text


def _teach(parser: argparse.ArgumentParser) -> None:
    words = {option.name: program.words_of(option) for option in program.settings()}
    for action in parser._actions:
        if words.get(action.dest):
            action.choices = list(words[action.dest])
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
