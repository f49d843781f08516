"""dockerd's command line: the options in it that this host's network depends on, and what others differ in. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from overlayd.lib.sanitize import plain, sanitized

# What the lease decides, and what contradicts it or decides how docker's rules are written.
OURS = ("bip", "ipv6", "fixed-cidr-v6", "ip-masq", "mtu", "allow-direct-routing", "bridge-accept-fwmark")
THEIRS = (
    *("bridge", "bip6", "fixed-cidr", "default-gateway", "default-gateway-v6"),
    *("iptables", "ip6tables", "firewall-backend", "config-file"),
)
# Those that need no value; of these, a word that follows is none of theirs.
_SWITCHES = {
    *("ipv6", "ip-masq", "allow-direct-routing", "iptables", "ip6tables", "debug", "icc", "init", "ip-forward"),
    *("ip-forward-no-drop", "live-restore", "experimental", "selinux-enabled", "raw-logs", "rootless", "tls"),
    *("tlsverify", "userland-proxy", "no-new-privileges", "validate", "cri-containerd", "D"),
}
# Flags that may be repeated, by their names in daemon.json; of --add-runtime Docker takes both.
KEYS = {
    **{name: f"{name}s" for name in ("authorization-plugin", "cdi-spec-dir", "default-address-pool", "default-ulimit")},
    **{name: f"{name}s" for name in ("dns-opt", "exec-opt", "feature", "host", "label", "log-opt", "storage-opt")},
    **{name: f"{name}s" for name in ("node-generic-resource", "registry-mirror", "cluster-store-opt")},
    "insecure-registry": "insecure-registries",
}
_SHORT = {"b": "bridge", "D": "debug", "H": "host"}
# dockerd's own, where an option is not given.
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
    """An option's value, and the file that gives it."""

    value: str
    where: str


Words = Sequence[tuple[str, str]]


def parse(words: Words) -> dict[str, Flag]:
    """The options among words that each come with the file they are from; of two with one name the later counts."""
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
            switch = name in _SWITCHES
            value = "true" if switch else left.pop(0)[0] if left and not left[0][0].startswith("-") else ""
        found[_SHORT.get(name, name)] = Flag(value=value, where=where)
    return found


def of_argv(argv: Iterable[str], where: str) -> dict[str, Flag]:
    """The options of a command line without its program."""
    return parse([(word, where) for word in argv])


def is_dockerd(argv: Sequence[str]) -> bool:
    """Whether a command line is dockerd's own: dockerd, CentOS 7's dockerd-current."""
    return bool(argv) and argv[0].rpartition("/")[2].startswith("dockerd")


def expanded(command: str, where: str, variables: Mapping[str, Flag]) -> Words:
    """The words of an ExecStart= as systemd.service(5) expands them, each with the file that it is from."""
    found: list[tuple[str, str]] = []
    for word in split(command):
        whole = re.fullmatch(r"\$(\w+)", word)
        if whole is not None:
            # A variable that is a word of its own becomes as many words as it has.
            given = variables.get(whole[1])
            found += [(one, given.where) for one in split(given.value)] if given else []
            continue
        from_file = where
        for match in _EXPANDED.finditer(word):
            given = variables.get(match[1] or match[2])
            from_file = given.where if given else from_file
        found.append((_EXPANDED.sub(lambda match: _value(variables, match[1] or match[2]), word), from_file))
    return found


def split(text: str) -> list[str]:
    """Words, quotes taken off; where a quote is never closed, as they stand."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def differences(
    has: Mapping[str, Flag], should: Mapping[str, Flag], daemon_json: Mapping[str, object] | None = None
) -> dict[str, str]:
    """By name, in words, in what a running dockerd's options are others than they should be.

    An option that daemon.json has is decided there.
    """
    found = {}
    for name in (*OURS, *THEIRS):
        is_there, wanted = has.get(name), should.get(name)
        if daemon_json and name in daemon_json and wanted is None:
            if is_there is None:
                continue
            wanted = Flag(value=word(daemon_json[name]), where="daemon.json")
        now, then = (normal(name, given) for given in (is_there, wanted))
        if now == then:
            continue
        if wanted is None and is_there is not None:
            found[name] = f"with --{name}={plain(is_there.value)}, which it must not have now"
        elif is_there is None:
            found[name] = f"without --{name}={plain(then)}"
        else:
            found[name] = f"with --{name}={plain(is_there.value)} instead of {plain(then)}"
    return found


def word(value: object) -> str:
    """A value of daemon.json as a flag would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else sanitized(value)


def normal(name: str, given: Flag | None) -> str:
    """An option's value as it counts: dockerd's default where none is given."""
    if given is None:
        return _DEFAULTS.get(name, "")
    if name in _SWITCHES:
        return "true" if given.value in _TRUE else "false" if given.value in _FALSE else given.value
    return given.value


def _value(variables: Mapping[str, Flag], name: str) -> str:
    given = variables.get(name)
    return given.value if given else ""
