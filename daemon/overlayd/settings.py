"""This host's settings: one table of options, from which flags, variables and the sysconfig file are all read.

An option `etcd-endpoints` is the flag `--etcd-endpoints`, the variable `OVERLAYD_ETCD_ENDPOINTS` and, for hosts that
come from flannel, `FLANNELD_ETCD_ENDPOINTS`. What is nearer to the command line wins: flag, OVERLAYD_, FLANNELD_, the
file, the default.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from overlayd.addresses import IPNetwork, ip_network
from overlayd.errors import ConfigError, PrivilegeError

CONFIG_FILE = Path("/etc/sysconfig/overlayd")
# In the file for others than us: the unit's own flags, and what docker.env adds.
_NOT_OPTIONS = {"OVERLAYD_OPTIONS", "OVERLAYD_DOCKER_OPTIONS"}


# ruff: noqa: RUF009  (the table below is made of calls; their defaults are immutable)


def _option(
    parse: Callable[[str], Any],
    text: str,
    *,
    default: Any,
    many: bool = False,
    secret: bool = False,
    also: tuple[str, ...] = (),
    switch: bool = False,
    between: str = ",",
) -> Any:
    """One row: `also` are flannel's names for the same option; a `switch` may be bare, or `--no-…` instead.

    `between` is what stands between several values, as a regular expression.
    """
    metadata = {"parse": parse, "help": text, "many": many, "secret": secret, "also": also, "switch": switch}
    metadata["between"] = between
    return field(default=default, metadata=metadata, repr=not secret)


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("empty")
    return value.strip()


def _flag(value: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[value.strip().lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _address(value: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError("an IPv4 address") from None


def _address6(value: str) -> IPv6Address:
    try:
        return IPv6Address(value)
    except ValueError:
        raise ValueError("an IPv6 address") from None


def _network(value: str) -> IPNetwork:
    try:
        return ip_network(value.strip())
    except ValueError:
        raise ValueError("networks such as 192.0.2.0/24") from None


def _any_address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("an IP address") from None


def _whole(value: str, low: int, high: int, allowed: str) -> int:
    # str.isdecimal() holds for other alphabets' digits too, and int() refuses very many.
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and low <= int(value) <= high):
        raise ValueError(allowed)
    return int(value)


def _port(value: str) -> int:
    return _whole(value, 0, 65535, "a port from 1 to 65535, or 0 for none")


def _minutes(value: str) -> int:
    return _whole(value, 1, 10**6, "a whole number of minutes above 0")


def _prefix(value: str) -> str:
    """As flannel joins it with the names of keys (Go's path.Join): cleaned, and "" for the root, before their slash."""
    cleaned = posixpath.normpath(value.strip())
    if cleaned == "." or not value.isprintable():
        raise ValueError("a path such as /coreos.com/network")
    # POSIX keeps two leading slashes, Go does not.
    return cleaned.replace("//", "/").removesuffix("/")


def _path(value: str) -> Path:
    if "\0" in value:
        raise ValueError("a path")
    return Path(value)


def _folder(value: str) -> Path:
    if not value.startswith("/") or "\0" in value or os.path.normpath(value) in ("/", "//"):
        raise ValueError("the whole path of a folder, such as /etc/overlayd/extension")
    return Path(os.path.normpath(value))


def _positive(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0
    if not 0 < number < 1e9:
        raise ValueError("a number of seconds above 0")
    return number


def _rate(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1
    if number and not 0.1 <= number <= 1000:
        raise ValueError("a number a second from 0.1 to 1000, or 0 for none")
    return number


def _ttl(value: str) -> int:
    # etcd itself raises shorter ones to its election timeout.
    return _whole(value, 5, 10**9, "a whole number of seconds, 5 or more")


def _docker_restart(value: str) -> str:
    if value not in ("idle", "never", "always"):
        raise ValueError("idle, never or always")
    return value


def _firewall(value: str) -> str:
    word = value.strip().lower()
    # It was a yes or no in 0.1.
    if word in ("auto", "iptables", "nftables", "none"):
        return word
    try:
        return "auto" if _flag(word) else "none"
    except ValueError:
        raise ValueError("auto, iptables, nftables or none") from None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that one host decides for itself. What all hosts share is the network config in etcd."""

    etcd_endpoints: tuple[str, ...] = _option(
        _text, "etcd servers, comma separated", default=("http://127.0.0.1:2379",), many=True, between=r"[,;\s]"
    )
    etcd_prefix: str = _option(_prefix, "where the network is kept in etcd", default="/coreos.com/network")
    etcd_cafile: str | None = _option(_text, "PEM file of the CA that signed etcd's certificates", default=None)
    etcd_certfile: str | None = _option(_text, "PEM file of this host's client certificate", default=None)
    etcd_keyfile: str | None = _option(_text, "PEM file of its key", default=None)
    etcd_username: str | None = _option(_text, "etcd user", default=None)
    etcd_password: str | None = _option(
        _text,
        "its password; refused as a flag, which every user of this host can read: set etcd-password-file",
        default=None,
        secret=True,
    )
    etcd_password_file: str | None = _option(
        _text, "file that holds its password; read anew for each login", default=None
    )
    iface: tuple[str, ...] = _option(
        _text, "interface, by name or address, that peers reach this host by", default=(), many=True
    )
    iface_regex: tuple[str, ...] = _option(
        _text, "expression that an interface's address or name matches", default=(), many=True
    )
    iface_can_reach: str | None = _option(_text, "take the interface of the route to this address", default=None)
    public_ip: IPv4Address | None = _option(
        _address, "address that peers send to, if not the interface's own", default=None
    )
    public_ipv6: IPv6Address | None = _option(
        _address6, "IPv6 address that peers send to, if not the interface's own", default=None
    )
    ip_masq: bool = _option(_flag, "masquerade what leaves the overlay network", default=True)
    firewall: str = _option(
        _firewall,
        "what to keep the rules with that let the overlay's packets pass: auto, iptables, nftables, none",
        default="auto",
        switch=True,
    )
    iptables_forward_rules: bool = _option(_flag, "accept the network's packets in the FORWARD chain", default=True)
    trusted_networks: tuple[IPNetwork, ...] = _option(
        _network,
        "networks outside the overlay that may reach containers by their own addresses, by this host; nobody else may",
        default=(),
        many=True,
    )
    ip_blackhole_route: bool = _option(
        _flag, "drop what is for this host's subnet while no bridge carries it, instead of sending it on", default=False
    )
    docker_restart: str = _option(
        _docker_restart,
        "restart a docker that is on another bridge address: idle (while it runs no container), never, always",
        default="idle",
    )
    extension_commands: Path | None = _option(
        _folder,
        "folder of the programs that backend extension may run, as root, when etcd says so; without it, none is run",
        default=None,
    )
    lease_ttl_s: int = _option(_ttl, "how long a lease outlives its host, in seconds", default=86400)
    subnet_lease_renew_margin: int = _option(
        _minutes, "minutes before its end by which a lease is prolonged at the latest", default=60
    )
    resync_s: float = _option(
        _positive, "seconds between two looks at the kernel's state", default=5.0, also=("iptables_resync",)
    )
    probe_rate: float = _option(
        _rate,
        "echoes a second, at most, that are sent to peers' containers to see whether they are reached; 0 for none",
        default=5.0,
    )
    healthz_ip: str = _option(_any_address, "address to serve /healthz, /readyz and /metrics on", default="0.0.0.0")
    healthz_port: int = _option(_port, "its TCP port; 0 for none", default=0)
    subnet_file: Path | None = _option(
        _path, "where to write the leased subnet (default: subnet.env in run-dir)", default=None
    )
    run_dir: Path = _option(_path, "files of this boot", default=Path("/run/overlayd"))
    state_dir: Path = _option(_path, "files that outlive a reboot", default=Path("/var/lib/overlayd"))

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
        theirs = [f"FLANNELD_{name.upper()}" for name in _names(option)]
        sources: tuple[tuple[str, str | Sequence[str] | None], ...] = (
            (f"--{_dashed(option.name)}", flags.get(option.name)),
            (f"OVERLAYD_{upper}", environment.get(f"OVERLAYD_{upper}")),
            *((name, environment.get(name)) for name in theirs),
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
        # Nearer than a password in the file or in a variable, which is one way to say the same.
        found.pop("etcd_password", None)
    return Settings(**found)


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
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        key, equals, value = stripped.partition("=")
        if not equals:
            # Not shown: it may be the rest of a password.
            raise ConfigError(f"{path} line {number} is not KEY=value")
        if key.startswith("OVERLAYD_") and key not in known:
            raise ConfigError(f"{path} line {number}: {key} is not a setting", hint="`overlayd run --help` lists them")
        try:
            found[key] = " ".join(shlex.split(value))
        except ValueError as error:
            raise ConfigError(f"{path} line {number}: {key}: {error}") from error
    return found


def _parse(source: str, raw: str | Sequence[str], metadata: Mapping[str, Any]) -> Any:
    try:
        if not metadata["many"]:
            return metadata["parse"](raw)
        given = [raw] if isinstance(raw, str) else raw
        return tuple(
            metadata["parse"](part) for text in given for part in re.split(metadata["between"], text) if part.strip()
        )
    except ValueError as error:
        shown = "(not shown)" if metadata["secret"] else repr(raw)
        raise ConfigError(f"{source} is {shown}", hint=f"allowed: {error}") from None


def _names(option: Field[Any]) -> tuple[str, ...]:
    return (option.name, *option.metadata["also"])


def _dashed(name: str) -> str:
    return name.replace("_", "-")
