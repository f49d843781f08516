"""`overlayd migrate flannel`: take over settings and subnet from flannel on this host.

It writes two files. It stops, disables and removes nothing, but prints the commands for that.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from overlayd import settings as settings_table
from overlayd.commands.command import Command, Verb, Verbs
from overlayd.commands.output import print_line
from overlayd.docker.dockerd_config import DAEMON_JSON, read_daemon_json
from overlayd.errors import BusyError, CommandFailed, ConfigError, OverlaydError, PrivilegeError
from overlayd.flannel import options as flanneld
from overlayd.flannel import undo
from overlayd.flannel.host import SYSCONFIG, FlannelHost, look
from overlayd.leases import previous_lease
from overlayd.leases.held_lease import PreviousLease
from overlayd.leases.subnets import Subnets
from overlayd.lib import process
from overlayd.lib.addresses import first_host
from overlayd.lib.files import write_atomically
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass
from overlayd.monitoring import status_file
from overlayd.settings import Settings


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What would be written: the settings file's text if it changes, the subnets to keep if they are not kept yet."""

    path: Path
    text: str | None
    state_dir: Path
    subnets: Subnets | None


def _flannel(settings: Settings, options: argparse.Namespace) -> int:
    """Print what there is and what would be written; write it if `--yes` or the user says so. Idempotent."""
    root: Path = options.root
    found = look(root, sysconfig=options.flannel_sysconfig, subnet_env=options.flannel_subnet_env)
    if not found.files and not found.devices and not found.words:
        raise OverlaydError(
            f"flannel has left nothing on this host: there is no {root / SYSCONFIG}, no unit of it, no subnet.env",
            hint="--flannel-sysconfig names its settings, if they are elsewhere",
        )
    translation = flanneld.translate(found.variables, found.words, masquerades=found.masquerades)
    if translation.refusals:
        raise ConfigError("this host cannot follow its flannel:\n  " + "\n  ".join(translation.refusals))
    plan = _plan(settings, options, found, translation.settings)
    _print_section("to know:", [*translation.remarks, _OF_ETCD, *_of_docker(root, found)])
    _print_section("then, as root:", _steps(root, found))
    if plan.text is None and plan.subnets is None:
        print_line("both files are as they should be: nothing to write")
        return 0
    if not options.yes and not _confirmed():
        print_line("nothing is written; `overlayd migrate flannel --yes` writes it")
        return 0
    _write(plan, settings)
    return 0


def _plan(settings: Settings, options: argparse.Namespace, found: FlannelHost, wanted: Mapping[str, str]) -> _Plan:
    root: Path = options.root
    path = settings_table.config_file(vars(options), os.environ)
    path = path if options.config_file is not None else root / path.relative_to("/")
    state_dir = root / settings.state_dir.relative_to("/")
    before = _text(path)
    source = ", ".join(map(str, found.files)) or found.unit
    after, kept = flanneld.merge(before, wanted, source=source)
    _print_section("read:", list(map(str, found.files)))
    added = after.removeprefix(before).splitlines()
    _print_section(f"{path} gets:", [_shown(line) for line in added] or ["nothing: it says all of that already"])
    _print_section(f"{path} keeps what it says, not flannel's:", [_conflict(key, *both) for key, both in kept.items()])
    held = previous_lease.recall(state_dir, Path(os.devnull)).subnets
    wants = found.subnets or None
    _print_section("subnet:", [_of_subnet(state_dir, held, wants)])
    return _Plan(
        path=path,
        text=None if after == before else after,
        state_dir=state_dir,
        subnets=None if wants is None or wants == held else wants,
    )


def _of_subnet(state_dir: Path, held: Subnets, wants: Subnets | None) -> str:
    record = state_dir / previous_lease.LEASE_FILE
    if wants is None:
        return (
            "none is known, as flannel's subnet.env is not there. overlayd takes the lease that etcd has for this "
            "host's address, else another subnet"
        )
    if wants == held:
        return f"{wants}, as {record} has it already"
    before = f"; it had {held}, of an earlier overlayd" if held else ""
    return f"{wants} is kept, by {record}{before}"


_OF_ETCD = (
    "flannel before the middle of 2022, CentOS 7's 0.7 too, keeps its network in etcd's old v2 store, which overlayd "
    "does not read: the two do not see each other. Where `overlayd config get` prints no config, that is so; then all "
    "hosts of the network move together, after `overlayd config set`"
)


def _of_docker(root: Path, found: FlannelHost) -> list[str]:
    daemon_json, problems = read_daemon_json(root / DAEMON_JSON.relative_to("/"))
    bip = daemon_json.get("bip")
    if bip and found.subnets.v4 and str(bip) != str(first_host(found.subnets.v4)):
        problems.append(f"{DAEMON_JSON} sets bip to {bip}, which is not of the subnet; take it out")
    if found.devices:
        problems.append(
            f"{', '.join(found.devices)} must go before overlayd starts; from then until it is ready, containers do "
            "not reach other hosts. docker and its containers go on"
        )
    return problems


def _steps(root: Path, found: FlannelHost) -> list[str]:
    rules: list[str] = []
    if root == Path("/"):
        for command, family in (("iptables", found.network), ("ip6tables", None)):
            rules += undo.iptables(_output(f"{command}-save"), network=family, command=command)
        rules += undo.nftables(_output("nft", "list", "tables"))
    return undo.steps(
        unit=found.unit,
        required=found.required,
        devices=found.devices,
        docker_files=[str(path) for path in found.docker_files],
        rules=rules,
        network=ours(),
    )


def _output(*argv: str) -> str:
    try:
        return process.run(argv)
    except CommandFailed:
        # Not installed, or not root: then there is nothing of flannel's to be seen.
        return ""


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stdout.write("write these files? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(plan: _Plan, settings: Settings) -> None:
    if status_file.runs(settings.run_dir):
        raise BusyError("overlayd runs on this host already", hint=f"systemctl stop {ours().unit}, then again")
    try:
        if plan.text is not None:
            backup = _backup(plan.path)
            write_atomically(plan.path, plan.text, mode=0o640)
            print_line(f"written: {plan.path}{f', as it was: {backup}' if backup else ''}")
    except PermissionError:
        raise PrivilegeError(f"{plan.path} cannot be written", hint="run this as root") from None
    except OSError as error:
        raise OverlaydError(f"{plan.path} cannot be written: {error}") from error
    if plan.subnets is not None:
        previous_lease.remember(plan.state_dir, PreviousLease(subnets=plan.subnets))
        print_line(f"written: {plan.state_dir / previous_lease.LEASE_FILE}")


def _backup(path: Path) -> Path | None:
    """Keep the file as it was, beside any that was kept before."""
    if not path.exists():
        return None
    number = 0
    while (kept := path.with_name(f"{path.name}.before-flannel{number or ''}")).exists():
        number += 1
    write_atomically(kept, path.read_text(), mode=0o600)
    return kept


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except PermissionError:
        raise PrivilegeError(f"{path}: only root may read it", hint="run this as root") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _conflict(key: str, there: str, theirs: str) -> str:
    return f"{_shown(f'{key}={there}')}, flannel's is {_shown(f'{key}={theirs}').partition('=')[2]}"


def _print_section(title: str, lines: list[str]) -> None:
    if lines:
        print_line(title)
        for line in lines:
            print_line(f"  {line}")


def _shown(line: str) -> str:
    secret = {f"OVERLAYD_{option.name.upper()}" for option in fields(Settings) if option.metadata["secret"]}
    key, equals, _value = line.partition("=")
    return f"{key}=(not shown)" if equals and key in secret else line


def _add_flannel_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--yes", action="store_true", help="write the files without asking; without it and a terminal, none is written")
    add("--root", type=Path, metavar="DIR", default=Path("/"), help="look at and write to the host below this folder")
    add("--flannel-sysconfig", type=Path, metavar="FILE", help="flannel's settings (default: /etc/sysconfig/flanneld)")
    add("--flannel-subnet-env", type=Path, metavar="FILE", help="flannel's subnet (default: /run/flannel/subnet.env)")


COMMAND = Command(
    place=100,
    does=Verbs(
        name="migrate",
        help="take over a host from another overlay",
        verbs=(
            Verb(
                name="flannel",
                help="take settings and subnet from flannel, and say how to move this host",
                manual="Reads /etc/sysconfig/flanneld, flannel's unit and /run/flannel/subnet.env; says what it would "
                "write, what of flannel's has no counterpart, and the commands that then move this host. It writes "
                "/etc/sysconfig/overlayd, where it adds and never changes a line (a copy is kept beside it), and the "
                "record by which overlayd takes the same subnet. It stops and removes nothing itself; the same again "
                "changes nothing.",
                needs_root=None,
                needs_etcd=False,
                run=_flannel,
                add_flags=_add_flannel_flags,
            ),
        ),
        metavar="FROM",
    ),
)
