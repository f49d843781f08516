"""The one command line. What each command takes and does is in `commands/`; here is how it is called, and how failures
are reported."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from overlayd import __version__, commands, settings
from overlayd.commands.command import Command, Verb
from overlayd.errors import OverlaydError, PrivilegeError
from overlayd.lib import log, marks
from overlayd.lib.ownership import require_ours

EXIT_STATUSES = """\
exit status: 0 well; 1 failed; 2 a setting or the network config is wrong; 3 this host or its kernel cannot do it;
4 not root; 5 another overlayd runs"""


def parser(known: Iterable[Command] | None = None) -> argparse.ArgumentParser:
    """The parser of the command line with the commands in `known`, all of them where it is None.

    Manual pages and completion come from it too: each parser of a whole command has its Verb as the default of `verb`,
    and the words that name it as that of `called`.
    """
    top = argparse.ArgumentParser(
        prog="overlayd",
        description="Cross-host networking for plain Docker: every container reaches every other by its own address.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"overlayd {__version__}")
    words = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = _shared_flags()

    def add(below: argparse._SubParsersAction[argparse.ArgumentParser], verb: Verb, *before: str) -> None:
        own = below.add_parser(verb.name, help=verb.help, description=verb.help, parents=[shared], epilog=EXIT_STATUSES)
        verb.add_flags(own)
        own.set_defaults(verb=verb, called=" ".join((*before, verb.name)))

    for command in commands.every() if known is None else known:
        does = command.does
        if isinstance(does, Verb):
            add(words, does)
            continue
        group = words.add_parser(does.name, help=does.help, description=does.help)
        verbs = group.add_subparsers(dest=f"{does.name} {does.metavar}", required=True, metavar=does.metavar)
        for verb in does.verbs:
            add(verbs, verb, does.name)
    return top


def _shared_flags() -> argparse.ArgumentParser:
    """What every command takes."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--config-file",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"settings as KEY=value lines (default: {settings.CONFIG_FILE}, of network N {settings.CONFIG_FILE}.N)",
    )
    shared.add_argument("-v", "--verbose", action="store_true", help="log more")
    settings.add_flags(shared)
    return shared


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit status. Every failure is one message on standard error."""
    words = settings.with_two_dashes(arguments)
    options = parser(_called(words)).parse_args(words)
    verb: Verb = options.verb
    log.configure(verbose=options.verbose)
    try:
        chosen = _settings(options, verb)
        marks.use(chosen.network_number)
        # Read, it is no longer where a child or a crash's report could find it.
        for name in settings.SECRET_VARIABLES:
            os.environ.pop(name, None)
        if verb.needs_root is not None and os.geteuid() != 0:
            raise PrivilegeError(f"overlayd {options.called} {verb.needs_root}", hint="run it as root")
        return verb.run(chosen, options)
    except OverlaydError as error:
        print(f"overlayd: {marks.ours().adapt_commands(str(error))}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Somebody closed the other end, as `head` does; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _called(words: Sequence[str]) -> tuple[Command, ...] | None:
    """The command that is called, alone: no other is imported then. None where the words name none."""
    if words == ["--version"]:
        return ()
    found = commands.find(words[0]) if words else None
    return None if found is None else (found,)


def _settings(options: argparse.Namespace, verb: Verb) -> settings.Settings:
    file, required = settings.config_file(vars(options), os.environ), options.config_file is not None
    if verb.needs_root is not None and file.is_file():
        # It says what is done as root, and where.
        require_ours(file, "config-file")
    try:
        return settings.load(vars(options), os.environ, file, file_required=required)
    except PrivilegeError:
        if not verb.without_settings:
            raise
        # Everybody may look; where it is, the file that only root may read seldom changes.
        return settings.load(vars(options), os.environ, None)
