"""Undo what the extension backend's commands did, with or without a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from overlayd.backends import ledger as ledgers
from overlayd.backends.allowed_commands import SETTING, AllowedCommands
from overlayd.backends.commands import words
from overlayd.backends.ledger import Ledger
from overlayd.errors import CommandFailed
from overlayd.lib import process
from overlayd.lib.log import logger

log = logger("extension")

COMMAND_S = 10.0
UNDO_S = 30.0


def run_command(
    command: str,
    variables: Mapping[str, str],
    allowed_commands: AllowedCommands,
    *,
    data: str = "",
    timeout_s: float = COMMAND_S,
) -> str:
    """Run a command with its variables and a line of data on its standard input. Raises CommandFailed.

    A command that this host does not allow is not run, and raises CommandFailed too.
    """
    if not command:
        return ""
    refusal = allowed_commands.refusal(command)
    if refusal is not None:
        raise CommandFailed(_printable(f"not run: {refusal}"), hint=f"see {SETTING} in overlayd.conf(5)")
    argv = words(command, variables)
    try:
        output = process.run(argv, input=f"{data}\n", timeout_s=timeout_s, env=variables)
    except CommandFailed as error:
        shown = "".join(f"{name}={value} " for name, value in variables.items() if value)
        # The message quotes the data, which another host wrote: a terminal must not obey what is in it.
        raise CommandFailed(_printable(f"{shown}{error.message}"), hint=error.hint) from None
    log.debug("command run", command=command, **{name.lower(): value for name, value in variables.items() if value})
    return output


def undo(
    ledger: Ledger, allowed_commands: AllowedCommands, *, within_s: float = float("inf")
) -> tuple[list[str], list[str]]:
    """Run SubnetRemoveCommand for every peer, then ShutdownCommand. Returns what was undone, and what failed."""
    done, failed = [], []
    ends = time.monotonic() + within_s
    for peer, record in sorted(ledger.peers.items()):
        host = record.host
        try:
            if time.monotonic() > ends:
                raise CommandFailed(f"peer {host.name}: no time left after {within_s:g} s")
            run_command(ledger.commands.subnet_remove, host.variables(), allowed_commands, data=host.data)
            done.append(f"peer {host.name} ({peer})")
        except CommandFailed as error:
            if record.settled:
                failed.append(error.message)
    try:
        if ledger.commands.shutdown and (ledger.started is not None or ledger.own is not None):
            run_command(ledger.commands.shutdown, ledger.own or {}, allowed_commands)
            done.append("what PreStartupCommand and PostStartupCommand made")
    except CommandFailed as error:
        failed.append(error.message)
    return done, failed


def undo_and_log(ledger: Ledger, allowed_commands: AllowedCommands) -> None:
    """Undo all that is in a ledger. Failures are logged, and not tried again."""
    _done, failed = undo(ledger, allowed_commands, within_s=UNDO_S)
    for problem in failed:
        log.error("a command that undoes the data path failed", problem=problem)


def cleanup(run_dir: Path, allowed_commands: AllowedCommands) -> Iterator[str]:
    """Undo all that the commands did since boot. Yields what was undone; raises CommandFailed with what was not.

    What failed is not tried again: the message has the command to run by hand.
    """
    done, failed = undo(ledgers.read(run_dir), allowed_commands)
    ledgers.write(run_dir, Ledger())
    yield from done
    if failed:
        raise CommandFailed("\n".join(failed))


def retire(run_dir: Path, allowed_commands: AllowedCommands) -> None:
    """Undo all that the commands did, for a daemon whose network has another backend now. Failures are logged."""
    ledger = ledgers.read(run_dir)
    if not ledger.empty:
        log.warning("the network has another backend now: what the extension's commands set up is undone")
        undo_and_log(ledger, allowed_commands)
        ledgers.write(run_dir, Ledger())


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
