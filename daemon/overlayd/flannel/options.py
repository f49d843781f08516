"""flanneld's options as settings of ours. No I/O.

flanneld takes an option from its command line (Go's flag package: -x=y, --x y), else from FLANNELD_… in its
environment. CentOS starts it by flanneld-start, which puts FLANNEL_ETCD_ENDPOINTS and FLANNEL_ETCD_PREFIX, or
FLANNEL_ETCD and FLANNEL_ETCD_KEY of older packages, before the words of the unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

from overlayd import settings
from overlayd.lib import envfile
from overlayd.lib.quick_dataclass import dataclass
from overlayd.settings import Settings

SUBNET_ENV = "/run/flannel/subnet.env"
_KUBERNETES = "Kubernetes' part of flannel, which overlayd has not"
_LOGGING = "overlayd logs to the journal; `overlayd run --verbose` says more"
_MULTI = "flannel's many networks a host: each is an overlayd of its own, with another network-number"
_SERVER = "flannel's own server, gone from flannel itself since: overlayd asks etcd"
# Options that flanneld has or had and overlayd has not, and why; None where nothing has to be said.
_OTHERS: dict[str, str | None] = {
    **dict.fromkeys(
        ("kube-subnet-mgr", "kube-api-url", "kube-annotation-prefix", "kubeconfig-file", "net-config-path"), _KUBERNETES
    ),
    "set-node-network-unavailable": _KUBERNETES,
    **dict.fromkeys(("networks", "watch-networks", "subnet-dir"), _MULTI),
    **dict.fromkeys(("remote", "remote-keyfile", "remote-certfile", "remote-cafile", "listen"), _SERVER),
    **dict.fromkeys(
        ("v", "vmodule", "log_backtrace_at", "logtostderr", "alsologtostderr", "stderrthreshold"), _LOGGING
    ),
    **dict.fromkeys(("log_dir", "log_file"), _LOGGING),
    **dict.fromkeys(("help", "version")),
}
_SWITCHES = {"kube-subnet-mgr", "set-node-network-unavailable", "watch-networks", "logtostderr", "alsologtostderr"}
_SWITCHES |= {"help", "version"}
# strconv.ParseBool
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What a flanneld's options become in overlayd.

    `settings` are OVERLAYD_… that differ from the defaults; `remarks` are sentences that a person should read;
    `refusals` say why overlayd cannot take this flannel's place.
    """

    settings: Mapping[str, str]
    remarks: tuple[str, ...]
    refusals: tuple[str, ...]


def translate(variables: Mapping[str, str], words: Sequence[str], *, masquerades: bool | None = None) -> Translation:
    """Read flanneld's environment and the words of its command line.

    `masquerades` is what a running flannel does, from its subnet.env. Raises ConfigError for a value that is not
    allowed here.
    """
    given = _given(variables, words)
    remarks, found = [], {}
    networks = [name for name in given.pop("networks", [""])[-1].split(",") if name]
    if len(networks) == 1:
        prefix = given.get("etcd-prefix", [str(Settings.etcd_prefix)])[-1]
        given["etcd-prefix"] = [f"{prefix.rstrip('/')}/{networks[0]}"]
    for name, values in given.items():
        option = _options().get(name)
        if option is not None:
            found[f"OVERLAYD_{option.name.upper()}"] = _value(option, values)
        elif name not in _OTHERS:
            given_as = f"--{name}={values[-1]}" if values[-1] else f"--{name}"
            remarks.append(f"{given_as}: overlayd has no such option")
        elif _OTHERS[name] and not (name in _SWITCHES and values[-1] in _FALSE):
            remarks.append(f"--{name}={values[-1]}: {_OTHERS[name]}")
    refusals = []
    if given.get("kube-subnet-mgr", ["false"])[-1] in _TRUE:
        refusals.append("--kube-subnet-mgr: this flannel has its subnets from Kubernetes, overlayd has them from etcd")
    if len(networks) > 1:
        refusals.append(f"--networks={','.join(networks)}: {_MULTI}")
    remarks += _masquerading(found, masquerades) + _subnet_file(found) + _endpoints(found)
    return Translation(settings=_not_default(found), remarks=tuple(remarks), refusals=tuple(refusals))


def parse(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Options and their values, in order, as Go's flag package reads them. It ends at the first word that is none."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or not word.strip("-"):
            return
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not equals:
            if _is_switch(name):
                value = "true"
            elif rest and not rest[0].startswith("-"):
                value = rest.pop(0)
        yield name, value


def merge(text: str, wanted: Mapping[str, str], *, source: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The text of a settings file with `wanted` added at its end; and by key the file's and the wanted value, where
    the file has another one.

    What an administrator set is never changed. Merging again changes nothing.
    """
    there = envfile.parse(text)
    new = {key: value for key, value in wanted.items() if there.get(key, "") == ""}
    kept = {key: (there[key], value) for key, value in wanted.items() if key not in new and there[key] != value}
    if not new:
        return text, kept
    lines = [f"# from {source}, by `overlayd migrate flannel`", *(envfile.assignment(*one) for one in new.items())]
    start = text if text.endswith("\n") or not text else f"{text}\n"
    # A last line that ends in a backslash would be continued by our first one.
    start += "\n" if start.endswith("\\\n") else ""
    return start + "".join(f"{line}\n" for line in lines), kept


def _given(variables: Mapping[str, str], words: Sequence[str]) -> dict[str, list[str]]:
    """Every option's values, from the source that counts: command line, flanneld-start, FLANNELD_… ."""
    nearest = [
        {
            name.removeprefix("FLANNELD_").lower().replace("_", "-"): [value]
            for name, value in variables.items()
            if name.startswith("FLANNELD_") and value
        }
    ]
    started = {
        "etcd-endpoints": variables.get("FLANNEL_ETCD_ENDPOINTS") or variables.get("FLANNEL_ETCD"),
        "etcd-prefix": variables.get("FLANNEL_ETCD_PREFIX") or variables.get("FLANNEL_ETCD_KEY"),
    }
    nearest.append({name: [value] for name, value in started.items() if value})
    typed: dict[str, list[str]] = {}
    for name, value in parse(words):
        typed.setdefault(name, []).append(value)
    nearest.append(typed)
    # An empty value counts as not given, except for an option that is unknown here, which may be a switch.
    return {
        name: values
        for source in nearest
        for name, values in source.items()
        if values != [""] or (name not in _options() and name not in _OTHERS)
    }


def _options() -> dict[str, Field[Any]]:
    found = {}
    for option in fields(Settings):
        for name in (option.name, *option.metadata["other_names"]):
            found[name.replace("_", "-")] = option
    return found


def _is_switch(name: str) -> bool:
    option = _options().get(name)
    return name in _SWITCHES or (option is not None and isinstance(option.default, bool))


def _value(option: Field[Any], values: list[str]) -> str:
    if option.metadata["separator"] is None and len(values) > 1:
        return "|".join(f"(?:{value})" for value in values)
    if option.metadata["many"]:
        return ",".join(values)
    if isinstance(option.default, bool):
        return "true" if values[-1] in _TRUE else "false" if values[-1] in _FALSE else values[-1]
    return values[-1]


def _masquerading(found: dict[str, str], masquerades: bool | None) -> list[str]:
    # flannel's default is not ours.
    key = "OVERLAYD_IP_MASQ"
    found[key] = str(masquerades).lower() if masquerades is not None else found.get(key, "false")
    if found[key] != "false":
        return []
    return [
        "flannel leaves masquerading to docker here, and so will overlayd (OVERLAYD_IP_MASQ=false): containers on "
        "other hosts see this host's address, not the container's. Take that line away for overlayd to do it"
    ]


def _subnet_file(found: dict[str, str]) -> list[str]:
    if found.get("OVERLAYD_SUBNET_FILE") != SUBNET_ENV:
        return []
    del found["OVERLAYD_SUBNET_FILE"]
    return [f"overlayd writes {Settings().subnet_env}; for who reads {SUBNET_ENV}, set OVERLAYD_SUBNET_FILE to that"]


def _endpoints(found: dict[str, str]) -> list[str]:
    """Leave out port 4001, etcd's port before 2.0, which flannel's defaults long had beside 2379."""
    key = "OVERLAYD_ETCD_ENDPOINTS"
    given = [one.strip() for one in found.get(key, "").split(",") if one.strip()]
    old = [one for one in given if one.rstrip("/").endswith(":4001")]
    dropped = [one for one in old if f"{one.rstrip('/').removesuffix(':4001')}:2379" in given]
    if dropped:
        found[key] = ",".join(one for one in given if one not in dropped)
    remarks = [
        f"{one} is left out: port 4001 is etcd's of before 2.0, and the server's port 2379 is there" for one in dropped
    ]
    remarks += [
        f"{one}: port 4001 is etcd's of before 2.0; is an etcd 3 there, or is it at 2379?"
        for one in old
        if one not in dropped
    ]
    return remarks


def _not_default(found: Mapping[str, str]) -> dict[str, str]:
    defaults, kept = Settings(), {}
    for option in fields(Settings):
        key = f"OVERLAYD_{option.name.upper()}"
        if key in found:
            read = settings.load({}, {key: found[key]}, None)
            if getattr(read, option.name) != getattr(defaults, option.name):
                kept[key] = found[key]
    return kept
