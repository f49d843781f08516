"""What the program says of itself: its commands, and the options and settings that they take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields
from typing import Any

from overlayd import cli, errors
from overlayd.commands.command import Verb
from overlayd.settings import Settings

_NAMES = ("docker", "etcd")
# Taken by every command, and told once.
_SHARED = frozenset({"help", "config_file", "verbose", *(option.name for option in fields(Settings))})


@dataclass(frozen=True, kw_only=True)
class DocumentedCommand:
    """One command: `name` with its verb, as typed after `overlayd`. `needs` are sentences."""

    name: str
    help: str
    manual: str
    needs: tuple[str, ...]
    options: tuple[argparse.Action, ...]
    arguments: tuple[argparse.Action, ...]

    @property
    def synopsis(self) -> str:
        """The command line, less what every command takes."""
        words = [f"`overlayd {self.name}`"]
        for action in self.options:
            text = term(action, short=True)
            words.append(text if action.required else f"[{text}]")
        for action in self.arguments:
            name = str(action.metavar or action.dest).upper()
            name = f"{name}..." if action.nargs in ("+", "*") else name
            words.append(f"[{name}]" if action.nargs in ("?", "*") else name)
        return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the settings table. `flannel` are the variables of flannel's that are read too."""

    name: str
    flags: tuple[str, ...]
    variable: str
    flannel: tuple[str, ...]
    help: str
    default: str | None
    allowed: str
    many: bool


def commands(parser: argparse.ArgumentParser | None = None) -> tuple[DocumentedCommand, ...]:
    """Every command, one with verbs as one for each verb, in the order of the help text."""
    return tuple(_commands(parser or cli.parser(), ""))


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[DocumentedCommand]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, below in action.choices.items():
                found = list(_commands(below, f"{name} {word}".strip()))
                yield from found or [_leaf(below, f"{name} {word}".strip(), helps.get(word, ""))]


def _leaf(parser: argparse.ArgumentParser, name: str, text: str) -> DocumentedCommand:
    own = [action for action in parser._actions if action.dest not in _SHARED]
    verb: Verb = parser.get_default("verb")
    needs = {"It must be run as root.": verb.needs_root is not None, "It needs etcd.": verb.needs_etcd}
    return DocumentedCommand(
        name=name,
        help=text,
        manual=verb.manual,
        needs=tuple(sentence for sentence, needed in needs.items() if needed),
        options=tuple(action for action in own if action.option_strings),
        arguments=tuple(action for action in own if not action.option_strings),
    )


def term(action: argparse.Action, *, short: bool = False) -> str:
    """An option as it is typed, with its value; `short` is its first form only."""
    forms = action.option_strings[:1] if short else action.option_strings
    words = {option.name: words_of(option) for option in settings()}.get(action.dest)
    value = "" if action.nargs == 0 else f" {'|'.join(words) if words else action.metavar or action.dest.upper()}"
    if action.nargs == "?":
        value = f"[={value.strip()}]"
    return ", ".join(f"`{form}`{value}" for form in forms)


def explained(action: argparse.Action) -> str:
    """An option's help text as a sentence, its default filled in."""
    return sentence((action.help or "") % {"default": action.default, "prog": "overlayd"})


def sentence(text: str) -> str:
    """A help text as a sentence of a page. Names of programs stay as they are."""
    first = text.partition(" ")[0]
    return f"{text if first in _NAMES else text[:1].upper() + text[1:]}."


def shared_options() -> tuple[argparse.Action, ...]:
    """The options of every command that are no settings, less --help."""
    names = {option.name for option in fields(Settings)}
    return tuple(action for action in _of_every_command() if action.dest not in names)


def setting_options() -> tuple[argparse.Action, ...]:
    """The options of every command that are settings."""
    names = {option.name for option in fields(Settings)}
    return tuple(action for action in _of_every_command() if action.dest in names)


def _of_every_command() -> Iterator[argparse.Action]:
    below = next(leaves(cli.parser()))
    return (action for action in below._actions if action.dest in _SHARED - {"help"})


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers that read a whole command: those without commands of their own."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for one in action.choices.values():
            yield from leaves(one)


def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the table."""
    return tuple(_setting(option) for option in fields(Settings))


def _setting(option: Field[Any]) -> Setting:
    names = (option.name, *option.metadata["other_names"])
    return Setting(
        name=option.name,
        flags=tuple(f"--{name.replace('_', '-')}" for name in names),
        variable=f"OVERLAYD_{option.name.upper()}",
        flannel=tuple(f"FLANNELD_{name.upper()}" for name in names),
        help=option.metadata["help"],
        default=_shown(option.default),
        allowed=allowed(option),
        many=option.metadata["many"] and option.metadata["separator"] is not None,
    )


def allowed(option: Field[Any]) -> str:
    """What a setting may be, in the words in which the program refuses anything else."""
    try:
        option.metadata["parse"]("\0")
    except ValueError as error:
        return str(error)
    return "a path" if "Path" in str(option.type) or option.name.endswith("file") else "text"


def words_of(option: Setting) -> tuple[str, ...]:
    """The words that a setting may be, where these are all: `idle, never or always`."""
    if re.fullmatch(r"\w+(, \w+)* or \w+", option.allowed) is None:
        return ()
    return tuple(re.split(r", | or ", option.allowed))


def exit_statuses() -> tuple[tuple[str, str], ...]:
    """Every exit status and what it says."""
    whole = " ".join(cli.EXIT_STATUSES.split()).removeprefix("exit status: ")
    found = [part.strip().partition(" ") for part in whole.split(";")]
    return tuple((number, text) for number, _, text in found)


def error_statuses() -> set[int]:
    """The exit statuses that failures have."""
    return {
        kind.exit_status
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.OverlaydError)
    }


def _shown(default: object) -> str | None:
    if default in (None, (), ""):
        return None
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)
