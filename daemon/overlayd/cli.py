"""The one command line. What each command does is in `commands/`; here are its words, and how failures are told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from overlayd import __version__, settings
from overlayd.errors import OverlaydError, PrivilegeError
from overlayd.lib import log, marks
from overlayd.lib.ownership import require_ours

EXIT_STATUSES = """\
exit status: 0 well; 1 failed; 2 a setting or the network config is wrong; 3 this host or its kernel cannot do it;
4 not root; 5 another overlayd runs"""

_CHANGE_THE_HOST = ("run", "cleanup", "docker")


def parser() -> argparse.ArgumentParser:
    """The parser; man pages and completion come from it too."""
    top = argparse.ArgumentParser(
        prog="overlayd",
        description="Cross-host networking for plain Docker: every container reaches every other by its own address.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"overlayd {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

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

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[shared], epilog=EXIT_STATUSES)

    command("run", "be the daemon: lease a subnet, keep the data path, until told to stop")
    command("check", "show the settings in force, the interface, etcd and the network config; change nothing")
    status = command("status", "show the lease, the peers, etcd and what is wrong; exit status 1 when not ready")
    status.add_argument("--json", action="store_true", help="as one JSON document")
    doctor = command("doctor", "find out what would stop packets here, and the command that mends it; change nothing")
    doctor.add_argument("--json", action="store_true", help="as one JSON document")
    doctor.add_argument(
        "--no-arp", action="store_true", help="do not ask the underlay whether another host has this host's address"
    )
    ping = command("ping", "ask every peer: does it answer, how fast, how large a packet may be")
    ping.add_argument("peers", nargs="*", metavar="PEER", help="a public address, a subnet, or an address inside it")
    ping.add_argument("--json", action="store_true", help="as one JSON document")
    ping.add_argument("--count", type=_count, default=3, help="echoes to each (default: 3)")
    ping.add_argument("--timeout", type=_seconds, default=1.0, help="seconds to wait for each (default: 1)")
    ping.add_argument("--no-mtu", action="store_true", help="do not look for the path's MTU")
    command("cleanup", "remove every route, device, rule and file of overlayd from this host")
    lease = commands.add_parser("lease", help="see who holds which subnet; keep one for a host, or free it")
    verbs = lease.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = verbs.add_parser("list", help="print every lease and reservation", parents=[shared])
    verb.add_argument("--json", action="store_true", help="as one JSON document")
    verb = verbs.add_parser("reserve", help="keep a subnet for a host, whether it runs or not", parents=[shared])
    verb.add_argument("subnet", nargs="+", help="10.42.7.0/24, and in a dual-stack network its IPv6 subnet too")
    verb.add_argument(
        "--host", action="append", required=True, metavar="ADDRESS", help="the address that the host publishes"
    )
    verb.add_argument("--force", action="store_true", help="also of a lease whose host may be a flannel's")
    verb = verbs.add_parser("release", help="free a lease or a reservation", parents=[shared])
    verb.add_argument("subnet", nargs="+", help="the subnet, or both of a dual-stack lease")
    verb.add_argument("--force", action="store_true", help="also while its host uses it, or may use it")
    config = commands.add_parser("config", help="read or write the network config in etcd")
    verbs = config.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("get", help="print the network config", parents=[shared])
    put = verbs.add_parser("set", help="check a network config and write it", parents=[shared])
    put.add_argument("config", help="JSON, or the name of a file that holds it, or - for standard input")
    put.add_argument(
        "--force",
        action="store_true",
        help="also if the network holds addresses that hosts need, or with keys that no host reads",
    )
    _docker_opts(command("docker-opts", "write docker's options to a file, as flannel's mk-docker-opts.sh does"))
    migrate = commands.add_parser("migrate", help="take over a host from another overlay")
    sources = migrate.add_subparsers(dest="source", required=True, metavar="FROM")
    text = "take settings and subnet from flannel, and say how to move this host"
    _migrate_flannel(sources.add_parser("flannel", help=text, description=text, parents=[shared]))
    docker = commands.add_parser("docker", help="bring a docker that runs onto the leased subnet")
    docker_verbs = docker.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, what in (
        (
            "settle",
            "restart docker if docker0 or dockerd's options are not the lease's, also while containers run; "
            "else do nothing",
        ),
        ("prepare", "write docker's options for the start that is about to come; docker.service runs this itself"),
    ):
        docker_verbs.add_parser(name, help=what, description=what, parents=[shared], epilog=EXIT_STATUSES)
    return top


def _docker_opts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-f", dest="subnet_env", type=Path, metavar="FILE", help="read this (default: subnet.env of this host)")
    add(
        "-d",
        dest="docker_env",
        type=Path,
        metavar="FILE",
        default=Path("/run/docker_opts.env"),
        help="write this (default: %(default)s)",
    )
    add("-i", dest="individual", action="store_true", help="write each option as a variable, DOCKER_OPT_MTU and so on")
    add("-c", dest="combined", action="store_true", help="write all options in one variable; without -i and -c, both")
    add("-m", dest="no_ip_masq", action="store_true", help="leave out --ip-masq")
    add("-k", dest="key", metavar="KEY", default="DOCKER_OPTS", help="name of that one variable (default: %(default)s)")


def _migrate_flannel(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--yes", action="store_true", help="write the files without asking; without it and a terminal, none is written")
    add("--root", type=Path, metavar="DIR", default=Path("/"), help="look at and write to the host below this folder")
    add("--flannel-sysconfig", type=Path, metavar="FILE", help="flannel's settings (default: /etc/sysconfig/flanneld)")
    add("--flannel-subnet-env", type=Path, metavar="FILE", help="flannel's subnet (default: /run/flannel/subnet.env)")


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit status. Every failure is one message on standard error."""
    options = parser().parse_args(settings.with_two_dashes(arguments))
    log.configure(verbose=options.verbose)
    try:
        chosen = _settings(options)
        marks.use(chosen.network_number)
        # Read, it is no longer where a child or a crash's report could find it.
        for name in settings.SECRET_VARIABLES:
            os.environ.pop(name, None)
        return _call(options, chosen)
    except OverlaydError as error:
        print(f"overlayd: {marks.ours().said_of(str(error))}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Somebody closed the other end, as `head` does; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _settings(options: argparse.Namespace) -> settings.Settings:
    file, required = settings.config_file(vars(options), os.environ), options.config_file is not None
    if options.command in _CHANGE_THE_HOST and file.is_file():
        # It says what is done as root, and where.
        require_ours(file, "config-file")
    try:
        return settings.load(vars(options), os.environ, file, file_required=required)
    except PrivilegeError:
        if options.command not in ("doctor", "ping", "status"):
            raise
        # Everybody may look; where it is, the file that only root may read seldom changes.
        return settings.load(vars(options), os.environ, None)


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 100:
        raise argparse.ArgumentTypeError("a whole number from 1 to 100")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number <= 60:
        raise argparse.ArgumentTypeError("a number of seconds above 0, at most 60")
    return number


def _call(options: argparse.Namespace, chosen: settings.Settings) -> int:
    # Commands are imported when they are called: `overlayd --help` should not wait for gRPC.
    module = import_module(f"overlayd.commands.{options.command.replace('-', '_')}")
    status: int = module.main(chosen, options)
    return status
