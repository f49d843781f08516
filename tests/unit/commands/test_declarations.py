"""Every command says in its own module what it takes and needs; command line and manual page come from that."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

import pytest

from overlayd import cli, commands
from overlayd.commands.command import Command, Verb, Verbs
from overlayd.errors import ConfigError
from overlayd.settings import Settings
from rpm.docs import completion, program
from tests.unit.lib.test_slim_imports import loaded

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(
    path.stem for path in (ROOT / "daemon/overlayd/commands").glob("*.py") if "\nCOMMAND" in path.read_text()
)


def command_of(module: str) -> Command:
    found = import_module(f"overlayd.commands.{module}").COMMAND
    assert isinstance(found, Command)
    return found


def verbs_of(module: str) -> tuple[Verb, ...]:
    does = command_of(module).does
    return does.verbs if isinstance(does, Verbs) else (does,)


@pytest.mark.parametrize("module", MODULES)
def test_a_command_is_found_by_the_name_of_its_module(module: str) -> None:
    command = command_of(module)
    assert command.does.name == module.replace("_", "-")
    assert commands.find(command.does.name) is command
    assert command in commands.every()


def test_commands_stand_in_one_order() -> None:
    assert [command.does.name for command in commands.every()] == [
        *("run", "check", "status", "doctor", "ping", "cleanup", "lease", "config", "docker-opts", "migrate", "docker")
    ]
    assert len({command.place for command in commands.every()}) == len(commands.every())


@pytest.mark.parametrize("module", MODULES)
def test_it_says_what_it_does_and_is_in_manual_page_and_completion(module: str) -> None:
    command = command_of(module)
    assert command.does.help, f"{module} lacks a line of help"
    assert not command.does.help.endswith("."), f"{module}: the help text is no sentence"
    told = {one.name: one for one in program.commands()}
    for verb in verbs_of(module):
        name = verb.name if verb is command.does else f"{command.does.name} {verb.name}"
        assert verb.help, f"{name} lacks a line of help"
        assert not verb.manual or verb.manual.endswith("."), f"{name}: the manual page has sentences"
        assert told[name].manual == verb.manual, f"{name} is not in the manual page"
        parser = argparse.ArgumentParser()
        verb.add_flags(parser)
        for action in parser._actions:
            assert action.help, f"{name} lacks a help text for {action.dest}"
        assert verb.name in completion.complete("bash")


def test_nothing_that_a_command_must_say_can_be_left_out() -> None:
    must = {field.name for field in fields(Verb) if field.default is MISSING}
    assert must >= {"name", "help", "manual", "needs_root", "needs_etcd", "run"}


@pytest.mark.parametrize("name", ["output", "bogus", "", "../x", "docker_opts", "os.path", "__init__"])
def test_what_is_no_command_is_not_found(name: str) -> None:
    assert commands.find(name) is None


def test_help_and_mistakes_name_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status in (["--help"], 0), (["bogus"], 2), ([], 2), (["output"], 2):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == status
        said = "".join(capsys.readouterr())
        assert all(module.replace("_", "-") in said for module in MODULES) or not words


def test_who_is_not_root_is_told_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_settings: Settings, _options: argparse.Namespace) -> int:
        raise ConfigError("it was run")

    verb = Verb(name="mend", help="x", manual="", needs_root="mends it", needs_etcd=False, run=run)
    command = Command(place=1, does=Verbs(name="thing", help="x", verbs=(verb,)))
    monkeypatch.setattr(commands, "find", lambda _name: command)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert cli.main(["thing", "mend", "--config-file", "/dev/null"]) == 4
    assert "overlayd thing mend mends it" in capsys.readouterr().err
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main(["thing", "mend", "--config-file", "/dev/null"]) == 2


# What a command does without: libraries that are slow to load, and rooms that it has no use for.
SPARED = {
    "lease": ("pyroute2", "overlayd.kernel", "overlayd.backends", "overlayd.daemon", "overlayd.doctor"),
    "config": ("pyroute2", "overlayd.kernel", "overlayd.backends", "overlayd.daemon", "overlayd.doctor"),
    "check": ("overlayd.daemon", "overlayd.doctor.checks", "overlayd.doctor.gather.firewall"),
    "status": ("pyroute2", "grpc", "overlayd.kernel", "overlayd.backends", "overlayd.store"),
    "docker_opts": ("pyroute2", "grpc", "overlayd.kernel", "overlayd.backends", "overlayd.store"),
    "ping": ("overlayd.daemon", "overlayd.doctor", "overlayd.firewall"),
    "docker": ("grpc", "overlayd.daemon", "overlayd.doctor", "overlayd.backends.backend"),
    "cleanup": ("grpc", "overlayd.daemon", "overlayd.doctor"),
    "migrate": ("grpc", "overlayd.daemon", "overlayd.doctor", "overlayd.backends.backend"),
}


@pytest.mark.parametrize("module", SPARED)
def test_a_command_loads_only_what_it_needs(module: str) -> None:
    found = loaded(["overlayd.cli", f"overlayd.commands.{module}"], refused=[])
    for spared in SPARED[module]:
        assert not any(name == spared or name.startswith(f"{spared}.") for name in found), spared


def test_only_the_command_that_is_called_is_imported() -> None:
    code = (
        "import sys, overlayd.cli; overlayd.cli.main(['status', '--run-dir=/nonexistent']);"
        "print(*sorted(name for name in sys.modules if name.startswith('overlayd.commands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        *("overlayd.commands.command", "overlayd.commands.output"),
        *("overlayd.commands.status", "overlayd.commands.status_report"),
    ]
