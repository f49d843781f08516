"""The extension backend's commands: what is run, in which order, and what never reaches a shell."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from overlayd.backends import ledger as ledgers
from overlayd.backends import undo
from overlayd.backends.allowed_commands import AllowedCommands
from overlayd.backends.commands import (
    PEER_VARIABLES,
    Commands,
    CommandStep,
    HostVariables,
    PeerCommand,
    PeerRecord,
    check,
    steps,
    words,
)
from overlayd.backends.extension import Extension
from overlayd.backends.ledger import Ledger
from overlayd.errors import CommandFailed, NetworkConfigError
from tests.unit.backends.test_backends import ENVIRONMENT, dual_peer, peer

TWO = HostVariables(subnet="10.5.2.0/24", public_ip="198.18.1.2", data="ee:02")
THREE = HostVariables(subnet="10.5.3.0/24", public_ip="198.18.1.3", data="ee:03")


def done(*host: HostVariables, settled: bool = True) -> dict[str, PeerRecord]:
    """Peers for which the command was run."""
    return {one.subnet: PeerRecord(host=one, settled=settled) for one in host}


def asked(*host: HostVariables) -> dict[str, HostVariables]:
    """Peers that there are."""
    return {one.subnet: one for one in host}


def names(found: tuple[CommandStep, ...]) -> list[str]:
    """Steps in short."""
    return [f"{step.verb.name.lower()} {step.host.subnet} {step.host.data}" for step in found]


def test_what_was_done_is_not_done_again() -> None:
    assert steps(done(TWO, THREE), asked(TWO, THREE)) == ()


def test_peers_are_added_before_others_are_removed() -> None:
    assert names(steps(done(TWO), asked(THREE))) == ["add 10.5.3.0/24 ee:03", "remove 10.5.2.0/24 ee:02"]


def test_a_changed_lease_is_removed_as_it_was_and_added_as_it_is() -> None:
    changed = replace(TWO, data="ee:22")
    found = steps(done(TWO, THREE), asked(changed, THREE))
    assert names(found) == ["remove 10.5.2.0/24 ee:02", "add 10.5.2.0/24 ee:22"]
    assert [step.binding for step in found] == [False, True]


def test_a_host_on_another_subnet_is_removed_from_the_first_before() -> None:
    moved = replace(TWO, subnet="10.5.9.0/24")
    found = steps(done(TWO, THREE), asked(moved))
    assert names(found) == ["remove 10.5.2.0/24 ee:02", "add 10.5.9.0/24 ee:02", "remove 10.5.3.0/24 ee:03"]


def test_an_addition_that_did_not_come_to_its_end_is_undone_and_done_again() -> None:
    found = steps(done(TWO, settled=False), asked(TWO))
    assert [(step.verb, step.binding) for step in found] == [(PeerCommand.REMOVE, False), (PeerCommand.ADD, True)]
    (gone,) = steps(done(TWO, settled=False), {})
    assert (gone.verb, gone.binding) == (PeerCommand.REMOVE, False)


def test_the_steps_lead_to_what_is_wanted_from_anywhere() -> None:
    choices = [None, TWO, replace(TWO, data="ee:22"), replace(TWO, public_ip="198.18.1.3"), THREE]
    for held, wanted in product(product(choices, repeat=2), repeat=2):
        before = {f"key{n}": PeerRecord(host=host, settled=True) for n, host in enumerate(held) if host}
        after = {f"key{n}": host for n, host in enumerate(wanted) if host}
        state = {name: entry.host for name, entry in before.items()}
        for step in steps(before, after):
            if step.verb is PeerCommand.ADD:
                assert step.peer not in state
                state[step.peer] = step.host
            else:
                assert state.pop(step.peer) == step.host
        assert state == after


def test_variables_are_replaced_within_a_word_and_never_split() -> None:
    variables = {"SUBNET": "a b;c", "PUBLIC_IP": "$SUBNET"}
    assert words("x \"$SUBNET\" ${PUBLIC_IP}/32 $OTHER \\; 'p q'", variables) == [
        *("x", "a b;c", "$SUBNET/32", "$OTHER", ";", "p q"),
    ]
    # A word is a word, whatever it is behind.
    assert words("sh -c 'echo $SUBNET'", variables) == ["sh", "-c", "echo a b;c"]


@pytest.mark.parametrize(
    "command",
    [
        "ip route replace $SUBNET via ${PUBLIC_IP}",
        "/usr/libexec/add 'a;b' \"c|d\" e\\;f",
        "",
    ],
)
def test_what_needs_no_shell_or_names_it_can_be_run(command: str) -> None:
    assert check("SubnetAddCommand", command, PEER_VARIABLES) == command


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("export VNI=1; ip link add x", "shell.*script.*extension-commands"),
        ("ip link add x && true", "shell"),
        ("cat `which ip`", "shell"),
        ("echo $(id)", "shell"),
        ("ip link > /tmp/x", "shell"),
        ("echo 'unclosed", "quotation"),
        ("  ", "blank"),
        ("ip route add $NETWORK", r"\$NETWORK.*known: SUBNET"),
        ("sh -c 'echo $HOME'", r"\$HOME.*known: SUBNET"),
    ],
)
def test_what_would_need_a_shell_is_refused_with_the_way_out(command: str, said: str) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        check("SubnetAddCommand", command, PEER_VARIABLES)
    assert re.search(said, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize("config", [{"SubnetAddCommand": ["ip"]}, {"PreStartupCommand": "x $SUBNET"}])
def test_a_bad_config_changes_nothing_and_is_said(config: dict[str, Any]) -> None:
    with pytest.raises(NetworkConfigError, match="extension"):
        Extension.from_config(config, ENVIRONMENT)


def test_a_peer_is_told_as_flannel_names_it() -> None:
    assert HostVariables.of(dual_peer(2)).variables() == {
        "SUBNET": "10.5.2.0/24",
        "IPV6SUBNET": "fd42:0:0:2::/64",
        "PUBLIC_IP": "198.18.1.2",
        "PUBLIC_IPV6": "2001:db8:1::2",
    }
    # Nothing of our own environment shines through.
    assert HostVariables.of(peer(2)).variables()["IPV6SUBNET"] == ""


def script(folder: Path, name: str, text: str) -> str:
    """Put a shell script into the folder of a host's programs; its whole path."""
    path = folder / "commands" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def allowed_commands(folder: Path) -> AllowedCommands:
    """A host's consent to what `script` put there."""
    return AllowedCommands(folder=folder / "commands")


def extension(folder: Path, run: str = "", **config: str) -> Extension:
    """A backend with this config, and files in a folder."""
    return Extension.from_config(
        config, replace(ENVIRONMENT, run_dir=folder / run, allowed_commands=allowed_commands(folder))
    )


def test_the_startup_command_is_run_once_a_boot_and_its_output_published(tmp_path: Path) -> None:
    pre = script(tmp_path, "pre", f'echo run >> {tmp_path}/runs; echo " ee:01 "; echo noise >&2')
    assert extension(tmp_path, PreStartupCommand=pre).lease_data(4) == "ee:01"
    assert extension(tmp_path, PreStartupCommand=pre).lease_data(6) == "ee:01"
    assert (tmp_path / "runs").read_text() == "run\n"
    assert extension(tmp_path, "other").lease_data(4) is None


def test_other_commands_undo_what_the_first_did(tmp_path: Path) -> None:
    echo, touch = script(tmp_path, "echo", 'echo "$1"'), script(tmp_path, "touch", 'touch "$1"')
    first = extension(tmp_path, PreStartupCommand=f"{echo} one", ShutdownCommand=f"{touch} {tmp_path}/undone")
    assert first.lease_data(4) == "one"
    # Mended, it counts, and nothing is done again.
    mended = extension(tmp_path, PreStartupCommand=f"{echo} one", ShutdownCommand=f"{touch} {tmp_path}/mended")
    assert mended.lease_data(4) == "one"
    assert not (tmp_path / "undone").exists()
    assert extension(tmp_path, PreStartupCommand=f"{echo} two").lease_data(4) == "two"
    assert (tmp_path / "mended").exists()
    assert not (tmp_path / "undone").exists()


def test_a_startup_command_that_fails_or_says_too_much_is_told_with_the_command(tmp_path: Path) -> None:
    fails = script(tmp_path, "fails", "echo no >&2; exit 3")
    with pytest.raises(CommandFailed, match=r"commands/fails[^$]*status 3: no"):
        extension(tmp_path, PreStartupCommand=fails).lease_data(4)
    with pytest.raises(CommandFailed, match="65536"):
        extension(tmp_path, PreStartupCommand=script(tmp_path, "long", "head -c 70000 /usr/bin/env")).lease_data(4)


def test_cleanup_undoes_all_and_names_what_it_could_not(tmp_path: Path) -> None:
    log = f"{tmp_path}/log"
    remove = script(tmp_path, "remove", f"read data; echo $SUBNET $PUBLIC_IP $data >> {log}; test $data != ee:03")
    shutdown = script(tmp_path, "shutdown", f"echo shutdown of $SUBNET >> {log}")
    ledger = Ledger(
        commands=Commands(subnet_remove=remove, shutdown=shutdown),
        own={"SUBNET": "10.5.1.0/24"},
        peers=done(TWO, THREE),
    )
    ledgers.write(tmp_path, ledger)
    said: list[str] = []
    with pytest.raises(CommandFailed, match=r"SUBNET=10.5.3.0/24 PUBLIC_IP=198.18.1.3 /.*remove"):
        said.extend(undo.cleanup(tmp_path, allowed_commands(tmp_path)))
    assert (tmp_path / "log").read_text().splitlines() == [
        "10.5.2.0/24 198.18.1.2 ee:02",
        "10.5.3.0/24 198.18.1.3 ee:03",
        "shutdown of 10.5.1.0/24",
    ]
    assert not (tmp_path / ledgers.FILE).exists()
    assert list(undo.cleanup(tmp_path, allowed_commands(tmp_path))) == []


def test_data_is_a_line_of_input_whatever_is_in_it(tmp_path: Path) -> None:
    evil = f"$(touch {tmp_path}/pwned); `touch {tmp_path}/pwned` | \x1b[31m \ud800 ' \" &"
    cat, false = script(tmp_path, "cat", "exec cat"), script(tmp_path, "false", "exit 1")
    said = undo.run_command(cat, {}, allowed_commands(tmp_path), data=evil)
    assert said == evil.replace("\ud800", "?") + "\n"
    with pytest.raises(CommandFailed) as caught:
        undo.run_command(false, {}, allowed_commands(tmp_path), data=evil)
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_ledger_survives_the_daemon_but_not_the_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(commands=Commands(subnet_add="x"), started="", own={"SUBNET": "a"}, peers=done(TWO, settled=False))
    ledgers.write(tmp_path, ledger)
    assert ledgers.read(tmp_path) == ledger
    monkeypatch.setattr(ledgers, "_BOOT_ID", tmp_path / "another")
    (tmp_path / "another").write_text("another\n")
    assert ledgers.read(tmp_path) == Ledger()


@pytest.mark.parametrize("garbage", ["", "{", "[]", "{}", '{"boot_id": 1}'])
def test_a_ledger_that_cannot_be_read_is_an_empty_one(tmp_path: Path, garbage: str) -> None:
    (tmp_path / ledgers.FILE).write_text(garbage)
    assert ledgers.read(tmp_path) == Ledger()


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_no_program_can_be_given_is_refused_with_words(text: str) -> None:
    for command in (f"/opt/x {text}", f"/opt/x '{text}'"):
        with pytest.raises(NetworkConfigError, match="cannot be a program's argument"):
            check("PreStartupCommand", command, ())
