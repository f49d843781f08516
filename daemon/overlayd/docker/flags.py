"""dockerd's command line: its options as values, and how two sets of options differ. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain, sanitized

# Options that overlayd sets from the lease.
OURS = ("bip", "ipv6", "fixed-cidr-v6", "ip-masq", "mtu", "allow-direct-routing", "bridge-accept-fwmark")
# Options of others that contradict the lease, or decide how docker writes its firewall rules.
THEIRS = (
    *("bridge", "bip6", "fixed-cidr", "default-gateway", "default-gateway-v6"),
    *("iptables", "ip6tables", "firewall-backend", "config-file"),
)
# Boolean flags. They take a value only after `=`: the next word is not their value.
_SWITCHES = {
    *("ipv6", "ip-masq", "allow-direct-routing", "iptables", "ip6tables", "debug", "icc", "init", "ip-forward"),
    *("ip-forward-no-drop", "live-restore", "experimental", "selinux-enabled", "raw-logs", "rootless", "tls"),
    *("tlsverify", "userland-proxy", "no-new-privileges", "validate", "cri-containerd", "D"),
}
# Flags that may be repeated have another name in daemon.json. --add-runtime is left out: Docker accepts it in
# both places.
KEYS = {
    **{name: f"{name}s" for name in ("authorization-plugin", "cdi-spec-dir", "default-address-pool", "default-ulimit")},
    **{name: f"{name}s" for name in ("dns-opt", "exec-opt", "feature", "host", "label", "log-opt", "storage-opt")},
    **{name: f"{name}s" for name in ("node-generic-resource", "registry-mirror", "cluster-store-opt")},
    "insecure-registry": "insecure-registries",
}
_SHORT = {"b": "bridge", "D": "debug", "H": "host"}
# What dockerd uses where an option is not given.
_DEFAULTS = {
    "ipv6": "false",
    "ip-masq": "true",
    "allow-direct-routing": "false",
    "iptables": "true",
    "firewall-backend": "iptables",
    "config-file": "/etc/docker/daemon.json",
}
_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}
_EXPANDED = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """An option's value, and the file that sets it."""

    value: str
    where: str


# Words of a command line, each with the file that it comes from.
Words = Sequence[tuple[str, str]]


def parse(words: Words) -> dict[str, Flag]:
    """The options on a command line, by their long names; of two with the same name the later one."""
    found: dict[str, Flag] = {}
    left = list(words)
    while left:
        word, where = left.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--"):
            # `-bbr0` is `-b br0`.
            name, value, equals = name[:1], name[1:] or value, equals or name[1:]
        if not equals:
            value = "true" if name in _SWITCHES else _next_value(left)
        found[_SHORT.get(name, name)] = Flag(value=value, where=where)
    return found


def _next_value(left: list[tuple[str, str]]) -> str:
    return left.pop(0)[0] if left and not left[0][0].startswith("-") else ""


def of_argv(argv: Iterable[str], where: str) -> dict[str, Flag]:
    """The options of a command line, given without its program; `where` is what messages call it."""
    return parse([(word, where) for word in argv])


def is_dockerd(argv: Sequence[str]) -> bool:
    """Whether a command line starts dockerd. CentOS 7 calls it dockerd-current."""
    return bool(argv) and argv[0].rpartition("/")[2].startswith("dockerd")


def expanded(command: str, where: str, variables: Mapping[str, Flag]) -> Words:
    """The words of an ExecStart= as systemd.service(5) expands them, each with the file that it comes from."""
    found: list[tuple[str, str]] = []
    for text in split(command):
        whole = re.fullmatch(r"\$(\w+)", text)
        if whole is not None:
            # `$NAME` as a word of its own is split into words; `${NAME}` and a part of a word are not.
            variable = variables.get(whole[1])
            found += [(one, variable.where) for one in split(variable.value)] if variable else []
            continue
        source = where
        for match in _EXPANDED.finditer(text):
            variable = variables.get(match[1] or match[2])
            source = variable.where if variable else source
        found.append((_EXPANDED.sub(lambda match: _value(variables, match[1] or match[2]), text), source))
    return found


def split(text: str) -> list[str]:
    """The words of a command, without quotes; where a quote is never closed, the text split at blanks."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def differences(
    running: Mapping[str, Flag], desired: Mapping[str, Flag], daemon_json: Mapping[str, object] | None = None
) -> dict[str, str]:
    """How the options of a running dockerd differ from the desired ones: a phrase for each option, by its name.

    Where an option is no flag and daemon.json sets it, the value there is the desired one.
    """
    found = {}
    for name in (*OURS, *THEIRS):
        now, then = running.get(name), desired.get(name)
        if daemon_json and name in daemon_json and then is None:
            if now is None:
                continue
            then = Flag(value=as_flag(daemon_json[name]), where="daemon.json")
        desired_value = effective(name, then)
        if effective(name, now) == desired_value:
            continue
        if then is None and now is not None:
            found[name] = f"with --{name}={plain(now.value)}, an option that it must not have"
        elif now is None:
            found[name] = f"without --{name}={plain(desired_value)}"
        else:
            found[name] = f"with --{name}={plain(now.value)} instead of {plain(desired_value)}"
    return found


def as_flag(value: object) -> str:
    """A value of daemon.json as it is written in a flag."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else sanitized(value)


def effective(name: str, flag: Flag | None) -> str:
    """The value that dockerd works with: its default where the option is not given, one spelling of each boolean."""
    if flag is None:
        return _DEFAULTS.get(name, "")
    if name in _SWITCHES:
        return "true" if flag.value in _TRUE else "false" if flag.value in _FALSE else flag.value
    return flag.value


def _value(variables: Mapping[str, Flag], name: str) -> str:
    variable = variables.get(name)
    return variable.value if variable else ""
