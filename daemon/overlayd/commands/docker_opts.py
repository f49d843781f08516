"""`overlayd docker-opts`: what flannel's mk-docker-opts.sh writes, for docker units that read such a file.

docker.service as overlayd's own drop-in leaves it needs none of this.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path

from overlayd.commands.command import Command, Verb
from overlayd.errors import ConfigError, OverlaydError, PrivilegeError
from overlayd.lib import envfile
from overlayd.lib.files import write_atomically
from overlayd.settings import Settings

_OPTION = "DOCKER_OPT_"
_IP_MASQ = {"true": "false", "false": "true"}


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Read subnet.env and write docker's options, in one step: a docker that starts meanwhile sees a whole file."""
    source = options.subnet_env or settings.subnet_env
    try:
        variables = {**os.environ, **envfile.parse(source.read_text())}
    except FileNotFoundError:
        raise OverlaydError(
            f"{source} is not there: this host has no subnet yet", hint="overlayd status says what it waits for"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise OverlaydError(f"{source} cannot be read: {error}") from error
    text = docker_options(
        variables,
        individual=options.individual or not options.combined,
        combined=options.combined or not options.individual,
        key=options.key,
        ip_masq=not options.no_ip_masq,
    )
    try:
        write_atomically(options.docker_env, text)
    except PermissionError:
        raise PrivilegeError(f"{options.docker_env} cannot be written", hint="run this as root") from None
    except OSError as error:
        raise OverlaydError(f"{options.docker_env} cannot be written: {error}") from error
    return 0


def docker_options(variables: Mapping[str, str], *, individual: bool, combined: bool, key: str, ip_masq: bool) -> str:
    """The file's text, byte for byte that of flannel 0.28's script. Raises ConfigError.

    As there, a DOCKER_OPT_… that is set already is passed on, the combined options begin with what `key` held, and
    IPv6 is not looked at.
    """
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) is None:
        raise ConfigError(f"-k is {key!r}", hint="allowed: the name of a variable")
    found = {name: value for name, value in variables.items() if name.startswith(_OPTION)}
    if subnet := variables.get("FLANNEL_SUBNET"):
        found["DOCKER_OPT_BIP"] = f"--bip={subnet}"
    if mtu := variables.get("FLANNEL_MTU"):
        found["DOCKER_OPT_MTU"] = f"--mtu={mtu}"
    if ip_masq and (theirs := variables.get("FLANNEL_IPMASQ")):
        if theirs not in _IP_MASQ:
            raise ConfigError(f"FLANNEL_IPMASQ is {theirs!r}", hint="allowed: true or false")
        found["DOCKER_OPT_IPMASQ"] = f"--ip-masq={_IP_MASQ[theirs]}"
    ordered = sorted(found.items())
    lines = [f'{name}="{value}"' for name, value in ordered] if individual else []
    if combined:
        words = f"{variables.get(key, '')} " + "".join(f"{value} " for _name, value in ordered)
        lines.append(f'{key}="{words}"')
    return "".join(f"{line}\n" for line in lines)


def _add_flags(parser: argparse.ArgumentParser) -> None:
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


COMMAND = Command(
    place=90,
    does=Verb(
        name="docker-opts",
        help="write docker's options to a file, as flannel's mk-docker-opts.sh does",
        manual="Only for units that read such a file, as flannel's users have them: docker.service gets its options "
        "from overlayd.service without it. The file is replaced in one step; without a subnet it is left as it was.",
        needs_root=None,
        needs_etcd=False,
        run=main,
        add_flags=_add_flags,
    ),
)
