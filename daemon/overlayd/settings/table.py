"""This host's settings: one table of options, from which flags, variables and the sysconfig file are all read.

An option `etcd-endpoints` is the flag `--etcd-endpoints`, the variable `OVERLAYD_ETCD_ENDPOINTS` and, for hosts that
come from flannel, `FLANNELD_ETCD_ENDPOINTS`. The first source that has it counts, in this order: flag, OVERLAYD_,
FLANNELD_, the file, the default.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field, fields
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from overlayd.errors import ConfigError, PrivilegeError
from overlayd.lib import envfile
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.marks import of
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain
from overlayd.settings import values

CONFIG_FILE = Path("/etc/sysconfig/overlayd")
# In the file, but not read by overlayd: flags that the unit adds, and options that docker.env adds.
_NOT_OPTIONS = {"OVERLAYD_OPTIONS", "OVERLAYD_DOCKER_OPTIONS"}


def _option(
    parse: Callable[[str], Any],
    text: str,
    *,
    default: Any,
    many: bool = False,
    secret: bool = False,
    other_names: tuple[str, ...] = (),
    switch: bool = False,
    separator: str | None = ",",
) -> Any:
    """One row: `other_names` are flannel's for the same option; a `switch` may be given bare, or as `--no-…`.

    `separator` is a regular expression for what separates several values; None: each time it is given it has one value.
    """
    metadata = {
        "parse": parse,
        "help": text,
        "many": many,
        "secret": secret,
        "other_names": other_names,
        "switch": switch,
    }
    metadata["separator"] = separator
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that one host decides for itself. What all hosts share is the network config in etcd."""

    etcd_endpoints: tuple[str, ...] = _option(
        values.text, "etcd servers, comma separated", default=("http://127.0.0.1:2379",), many=True, separator=r"[,;\s]"
    )
    network_number: int = _option(
        values.network_number,
        "which of this host's networks this is, from 0 to 9; docker's default bridge belongs to 0, and the others have "
        "files, devices and rules of their own",
        default=0,
    )
    etcd_prefix: str = _option(values.prefix, "where the network is kept in etcd", default="/coreos.com/network")
    etcd_cafile: str | None = _option(values.text, "PEM file of the CA that signed etcd's certificates", default=None)
    etcd_certfile: str | None = _option(values.text, "PEM file of this host's client certificate", default=None)
    etcd_keyfile: str | None = _option(values.text, "PEM file of its key", default=None)
    etcd_username: str | None = _option(values.text, "etcd user", default=None)
    etcd_password: str | None = _option(
        values.text,
        "its password; refused as a flag, which every user of this host can read: set etcd-password-file",
        default=None,
        secret=True,
    )
    etcd_password_file: str | None = _option(
        values.text, "file that holds its password; read anew for each login", default=None
    )
    iface: tuple[str, ...] = _option(
        values.text, "interface, by name or address, that peers reach this host by", default=(), many=True
    )
    iface_regex: tuple[str, ...] = _option(
        values.text,
        "expression that an interface's address or name matches; the flag may be repeated, the variable has one: (a|b)",
        default=(),
        many=True,
        separator=None,
    )
    iface_can_reach: str | None = _option(values.text, "take the interface of the route to this address", default=None)
    public_ip: IPv4Address | None = _option(
        values.address, "address that peers send to, if not the interface's own", default=None
    )
    public_ipv6: IPv6Address | None = _option(
        values.address6, "IPv6 address that peers send to, if not the interface's own", default=None
    )
    ip_masq: bool = _option(values.flag, "masquerade what leaves the overlay network", default=True)
    firewall: str = _option(
        values.firewall,
        "what to keep the rules with that let the overlay's packets pass: auto, iptables, nftables, none",
        default="auto",
        switch=True,
    )
    iptables_forward_rules: bool = _option(
        values.flag, "accept the network's packets in the FORWARD chain", default=True
    )
    trusted_networks: tuple[IPNetwork, ...] = _option(
        values.network,
        "networks outside the overlay that may reach containers by their own addresses, by this host; nobody else may",
        default=(),
        many=True,
    )
    ip_blackhole_route: bool = _option(
        values.flag,
        "drop what is for this host's subnet while no bridge carries it, instead of sending it on",
        default=False,
    )
    fast_path: str = _option(
        values.fast_path,
        "let packets between containers pass this host's network stack by, where no rule is bypassed: auto, off",
        default="auto",
    )
    docker_restart: str = _option(
        values.docker_restart,
        "restart a docker that is on another bridge address: idle (while it runs no container), never, always",
        default="idle",
    )
    extension_commands: Path | None = _option(
        values.folder,
        "folder of the programs that backend extension may run, as root, when etcd says so; without it, none is run",
        default=None,
    )
    lease_ttl_s: int = _option(values.ttl, "how long a lease outlives its host, in seconds", default=86400)
    subnet_lease_renew_margin: int = _option(
        values.minutes, "minutes before its end by which a lease is prolonged at the latest", default=60
    )
    resync_s: float = _option(
        values.positive,
        "seconds between two looks at this host's state; of most changes the kernel tells at once",
        default=5.0,
        other_names=("iptables_resync",),
    )
    probe_rate: float = _option(
        values.rate,
        "echoes a second, at most, that are sent to peers' containers to see whether they are reached; 0 for none",
        default=5.0,
    )
    healthz_ip: str = _option(
        values.any_address, "address to serve /healthz, /readyz and /metrics on", default="0.0.0.0"
    )
    healthz_port: int = _option(values.port, "its TCP port; 0 for none", default=0)
    subnet_file: Path | None = _option(
        values.path, "where to write the leased subnet (default: subnet.env in run-dir)", default=None
    )
    run_dir: Path = _option(values.path, "files of this boot", default=Path("/run/overlayd"))
    state_dir: Path = _option(values.path, "files that outlive a reboot", default=Path("/var/lib/overlayd"))

    @property
    def subnet_env(self) -> Path:
        """The file with the leased subnet, in flannel's format."""
        return self.subnet_file or self.run_dir / "subnet.env"


# Variables that hold a secret, under either name.
SECRET_VARIABLES = tuple(
    f"{prefix}_{option.name.upper()}"
    for option in fields(Settings)
    if option.metadata["secret"]
    for prefix in ("OVERLAYD", "FLANNELD")
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser a flag for every option. They leave None where not given, so that the other sources count."""
    group = parser.add_argument_group("settings")
    for option in fields(Settings):
        optional: dict[str, Any] = {}
        if isinstance(option.default, bool) or option.metadata["switch"]:
            # flannel's users write a bare --ip-masq
            optional = {"nargs": "?", "const": "true"}
        group.add_argument(
            *(f"--{_dashed(name)}" for name in _names(option)),
            dest=option.name,
            action="append" if option.metadata["many"] else "store",
            metavar=option.name.rsplit("_", 1)[-1].upper(),
            help=option.metadata["help"].replace("%", "%%") + _default_note(option.default),
            **optional,
        )
        if option.metadata["switch"]:
            group.add_argument(
                f"--no-{_dashed(option.name)}",
                dest=option.name,
                action="store_const",
                const="none",
                help=f"the same as --{_dashed(option.name)}=none",
            )


def with_two_dashes(arguments: Sequence[str]) -> list[str]:
    """A command line's words, settings with one dash as with two: Go's flag package, and so flannel, takes both."""
    known = {_dashed(name) for option in fields(Settings) for name in _names(option)}
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    for index, word in enumerate(words[:end]):
        if word[:1] == "-" and word[1:].partition("=")[0] in known:
            words[index] = f"-{word}"
    return words


def _default_note(default: object) -> str:
    if default in (None, (), ""):
        return ""
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f" (default: {str(shown).lower() if isinstance(default, bool) else shown})"


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
    *,
    file_required: bool = False,
) -> Settings:
    """The settings from all sources. Raises ConfigError that names the source, the value and what is allowed."""
    from_file = read_file(file, required=file_required) if file else {}
    found: dict[str, Any] = {}
    for option in fields(Settings):
        upper = option.name.upper()
        flannel_names = [f"FLANNELD_{name.upper()}" for name in _names(option)]
        sources: tuple[tuple[str, str | Sequence[str] | None], ...] = (
            (f"--{_dashed(option.name)}", flags.get(option.name)),
            (f"OVERLAYD_{upper}", environment.get(f"OVERLAYD_{upper}")),
            *((name, environment.get(name)) for name in flannel_names),
            (f"OVERLAYD_{upper} in {file}", from_file.get(f"OVERLAYD_{upper}")),
        )
        if option.metadata["secret"] and flags.get(option.name) is not None:
            raise ConfigError(
                f"--{_dashed(option.name)} shows a secret to every user of this host, in /proc/PID/cmdline",
                hint=f"set {_dashed(option.name)}-file instead, or OVERLAYD_{upper} in {file or CONFIG_FILE}",
            )
        for source, raw in sources:
            # An empty variable is one that somebody left blank in the file.
            if raw is not None and raw not in ("", []):
                found[option.name] = _parse(source, raw, option.metadata)
                break
    if flags.get("etcd_password_file") is not None:
        # A flag counts before a password in the file or in a variable.
        found.pop("etcd_password", None)
    return Settings(**{**_of_number(found.get("network_number", 0)), **found})


def _of_number(number: int) -> dict[str, Any]:
    """The defaults that differ from network 0's: prefix and folders."""
    if not number:
        return {}
    return {
        "etcd_prefix": f"{Settings.etcd_prefix}{number}",
        "run_dir": Settings.run_dir.with_name(of(number).name),
        "state_dir": Settings.state_dir.with_name(of(number).name),
    }


def config_file(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Path:
    """The file with the settings of the network that flags or environment name; they may name the file itself."""
    given = flags.get("config_file")
    number = str(flags.get("network_number") or environment.get("OVERLAYD_NETWORK_NUMBER"))
    if given is not None:
        return Path(given)
    # `load` refuses what is not such a number.
    return CONFIG_FILE.with_name(f"{CONFIG_FILE.name}.{number}") if number in list("123456789") else CONFIG_FILE


def read_file(path: Path, *, required: bool = False) -> dict[str, str]:
    """`KEY=value` lines as systemd's EnvironmentFile= reads them; a missing file is empty.

    Raises ConfigError, PrivilegeError.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{path}: no such file") from None
        return {}
    except PermissionError:
        # It may hold etcd's password.
        raise PrivilegeError(f"{path}: only root may read it", hint="run this as root") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    known = {f"OVERLAYD_{option.name.upper()}" for option in fields(Settings)} | _NOT_OPTIONS
    found = {}
    try:
        for number, key, value in envfile.read(text):
            if key not in known and "OVERLAYD_" in key:
                raise ConfigError(
                    f"{path} line {number}: {plain(key)} is not a setting",
                    hint=_of_key(key) or "`overlayd run --help` lists them",
                )
            found[key] = value
    except envfile.BadLine as error:
        raise ConfigError(f"{path} {error}") from error
    return found


def _of_key(key: str) -> str | None:
    """What to say about a key that contains a setting's name but is none."""
    if key.startswith("\ufeff"):
        return "the file begins with a byte order mark, with which systemd drops its first line: save it without"
    return "systemd reads no `export`: leave it out" if key.startswith("export") else None


def _parse(source: str, raw: str | Sequence[str], metadata: Mapping[str, Any]) -> Any:
    try:
        if not metadata["many"]:
            return metadata["parse"](raw)
        given = [raw] if isinstance(raw, str) else raw
        separator = metadata["separator"]
        parts = given if separator is None else [part for text in given for part in re.split(separator, text)]
        return tuple(metadata["parse"](part) for part in parts if part.strip())
    except ValueError as error:
        shown = "(not shown)" if metadata["secret"] else repr(raw)
        raise ConfigError(f"{source} is {shown}", hint=f"allowed: {error}") from None


def _names(option: Field[Any]) -> tuple[str, ...]:
    return (option.name, *option.metadata["other_names"])


def _dashed(name: str) -> str:
    return name.replace("_", "-")
