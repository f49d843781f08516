"""etcd has programs run that this host put into one folder for that, and no others: at no start, stop, or cleanup."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from overlayd import settings
from overlayd.backends import ledger as ledgers
from overlayd.backends import needs_restart, undo
from overlayd.backends.allowed_commands import AllowedCommands
from overlayd.backends.commands import Commands, HostVariables, words
from overlayd.backends.extension import Extension
from overlayd.backends.ledger import Ledger
from overlayd.errors import CommandFailed, ConfigError, NetworkConfigError
from overlayd.leases.keys import MalformedLease
from overlayd.leases.lease import parse_lease
from overlayd.leases.network_config import parse_network_config
from tests.unit.backends.test_backends import ENVIRONMENT
from tests.unit.backends.test_commands import allowed_commands, script

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which root may")


def test_without_consent_no_command_is_run_and_the_setting_is_named(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    config = {"PreStartupCommand": f"sh -c 'touch {trap}'"}
    with pytest.raises(NetworkConfigError, match=r"extension-commands is not set"):
        Extension.from_config(config, replace(ENVIRONMENT, run_dir=tmp_path, allowed_commands=AllowedCommands()))
    # Whoever forgets to hand one over has none.
    with pytest.raises(CommandFailed, match="not run: this host runs no commands that come from etcd"):
        Extension.from_config(config, replace(ENVIRONMENT, run_dir=tmp_path)).lease_data(4)
    assert not trap.exists()


def test_a_config_without_commands_needs_no_consent() -> None:
    config = replace(ENVIRONMENT, allowed_commands=AllowedCommands())
    assert isinstance(Extension.from_config({}, config), Extension)


@pytest.mark.parametrize(
    "command",
    [
        "sh -c 'touch /x'",
        "/bin/sh -c 'touch /x'",
        "good",
        "./good",
        "{folder}/../commands/good",
        "{folder}/./good",
        "{folder}//good",
        "{folder}/below/good",
        "{folder}x/good",
        "{folder}/$SUBNET",
        "$SUBNET",
        "'{folder}/good' x 'unclosed",
        "{folder}",
        "env {folder}/good",
    ],
)
def test_only_a_program_in_the_folder_by_its_whole_path_is_run(tmp_path: Path, command: str) -> None:
    good = script(tmp_path, "good", "true")
    script(tmp_path, "below/good", "true")
    assert allowed_commands(tmp_path).refusal(good) is None
    assert allowed_commands(tmp_path).refusal(f"{good} add '$SUBNET' --flag") is None
    refusal = allowed_commands(tmp_path).refusal(command.format(folder=tmp_path / "commands"))
    assert refusal is not None
    assert "is not a program in" in refusal


@pytest.mark.parametrize(
    "hostile", ["--flag", "-i", "$(id)", "10.5.2.0/24 -x", "", "%eth0", "fe80::1%-x", "10.5.2.2\n-"]
)
def test_what_a_lease_brings_is_no_option_and_no_program(hostile: str) -> None:
    """Addresses and subnets are read and written anew, so that no word begins with a dash; data is standard input."""
    for name, value in (
        ("10.5.2.0-24&fd42:0:0:2::-64", {"PublicIP": hostile, "PublicIPv6": "2001:db8::2", "BackendData": hostile}),
        ("10.5.2.0-24&fd42:0:0:2::-64", {"PublicIP": "198.18.1.2", "PublicIPv6": hostile, "BackendData": hostile}),
        (f"{hostile}-24", {"PublicIP": "198.18.1.2"}),
        ("10.5.2.0-24", {"PublicIP": "198.18.1.2", "BackendData": hostile}),
    ):
        try:
            host = HostVariables.of(parse_lease(name, json.dumps(value).encode()))
        except MalformedLease:
            continue
        found = words("/x/prog $SUBNET $IPV6SUBNET $PUBLIC_IP $PUBLIC_IPV6", host.variables())
        assert found[0] == "/x/prog"
        assert all(re.fullmatch(r"[0-9a-f:./]*", word) for word in found[1:]), found


def test_what_is_not_there_is_not_executable_or_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    script(tmp_path, "good", "true")
    folder = tmp_path / "commands"
    (folder / "text").write_text("x")
    (folder / "link").symlink_to("/bin/sh")
    (folder / "inside").symlink_to("good")
    given = allowed_commands(tmp_path)
    assert given.refusal(f"{folder}/inside") is None
    for name, said in (("none", "not there"), ("text", "cannot be executed"), ("link", "leads to a program outside")):
        assert said in (given.refusal(f"{folder}/{name}") or ""), name


@pytest.mark.parametrize("folder", ["/bin", "/usr/bin"])
def test_a_folder_of_everything_is_no_consent(folder: str) -> None:
    assert "could run anything as root" in (AllowedCommands(folder=Path(folder)).refusal(f"{folder}/touch /x") or "")


@root_only
@pytest.mark.parametrize("what", ["commands", "commands/good", "."])
@pytest.mark.parametrize("change", ["owner", "mode"])
def test_what_others_may_change_is_not_run_and_each_run_looks_again(tmp_path: Path, what: str, change: str) -> None:
    good, given = script(tmp_path, "good", "echo yes"), allowed_commands(tmp_path)
    assert undo.run_command(good, {}, given) == "yes\n"
    path = tmp_path / what
    os.chown(path, NOBODY, NOBODY) if change == "owner" else path.chmod(0o777)
    with pytest.raises(CommandFailed, match=r"not run: .*not root's alone"):
        undo.run_command(good, {}, given)


@pytest.mark.parametrize("value", ["commands", "/", "./x", "/a\0b"])
def test_the_setting_is_the_whole_path_of_a_folder(value: str) -> None:
    with pytest.raises(ConfigError, match="whole path of a folder"):
        settings.load({"extension_commands": value}, {}, None)
    assert settings.load({"extension_commands": "/a/b/"}, {}, None).extension_commands == Path("/a/b")
    assert settings.load({}, {}, None).extension_commands is None


def test_a_ledger_brings_no_command_of_its_own(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    ledger = Ledger(commands=Commands(shutdown=f"sh -c 'touch {trap}'"), started="")
    ledgers.write(tmp_path, ledger)
    with pytest.raises(CommandFailed, match="not run"):
        list(undo.cleanup(tmp_path, AllowedCommands()))
    ledgers.write(tmp_path, ledger)
    undo.retire(tmp_path, AllowedCommands())
    assert not trap.exists()


@root_only
@pytest.mark.parametrize("change", ["owner", "mode"])
def test_a_ledger_that_others_may_have_written_is_not_read(tmp_path: Path, change: str) -> None:
    ledgers.write(tmp_path, Ledger(commands=Commands(shutdown="/x"), started=""))
    path = tmp_path / ledgers.FILE
    assert not ledgers.read(tmp_path).empty
    os.chown(path, NOBODY, NOBODY) if change == "owner" else path.chmod(0o666)
    assert ledgers.read(tmp_path).empty


def test_other_commands_wait_for_a_restart_and_other_networks_do_not() -> None:
    def config(backend: str, network: str = "10.5.0.0/16") -> str:
        return f'{{"Network": "{network}", "Backend": {backend}}}'

    old = parse_network_config(config('{"Type": "extension", "SubnetAddCommand": "/a/b"}'))
    vxlan = parse_network_config(config('{"Type": "vxlan"}'))
    other = parse_network_config(config('{"Type": "extension", "SubnetAddCommand": "/a/b --other"}'))
    wider = parse_network_config(config('{"Type": "extension", "SubnetAddCommand": "/a/b"}', "10.0.0.0/8"))
    assert needs_restart(vxlan, old)
    assert needs_restart(old, other)
    assert not needs_restart(old, wider)
    assert not needs_restart(old, vxlan)
