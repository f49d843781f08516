"""What docker must be told, and whether it does it.

Docker takes its bridge's subnet, MTU and masquerading at start only, from flags or from daemon.json but never both
("specified both as a flag and in the configuration file" stops it): what daemon.json says is left alone and reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path

from overlayd import firewall
from overlayd.docker import flags as docker_flags
from overlayd.docker.dockerd_config import VARIABLE, DockerdConfig
from overlayd.docker.flags import word
from overlayd.errors import OverlaydError
from overlayd.leases.lease import Subnets
from overlayd.lib.addresses import IPInterface, first_host
from overlayd.lib.files import read_json, write_atomically
from overlayd.lib.sanitize import plain, sanitized

BRIDGE = "docker0"
# In the run directory: what docker.service reads, and what that is made from.
DOCKER_ENV, RECORD = "docker.env", "docker.json"


@dataclass(frozen=True, kw_only=True)
class DesiredDockerOptions:
    """How docker's default bridge has to be on this host. Its address is the subnet's first with its length."""

    subnets: Subnets
    mtu_bytes: int
    ip_masq: bool

    def options(self) -> dict[str, str]:
        """The options by their names in daemon.json, which are dockerd's long flags too."""
        found = {}
        if self.subnets.v4:
            found["bip"] = str(first_host(self.subnets.v4))
        if self.subnets.v6:
            # Docker gives the bridge the first address by itself.
            found |= {"ipv6": "true", "fixed-cidr-v6": str(self.subnets.v6)}
        return {**found, "ip-masq": word(self.ip_masq), "mtu": str(self.mtu_bytes)}


def desired_options(subnets: Subnets, mtu_bytes: int, *, we_masquerade: bool) -> DesiredDockerOptions:
    """Docker's part for leased subnets. Where we masquerade docker must not: it would hide containers from peers."""
    return DesiredDockerOptions(subnets=subnets, mtu_bytes=mtu_bytes, ip_masq=not we_masquerade)


def plan(want: DesiredDockerOptions, told: DockerdConfig, *, firewalled: bool) -> tuple[list[str], list[str]]:
    """dockerd's flags, and a sentence for each thing that it is told against the lease.

    `firewalled`: rules of ours rely on what dockerd is told of them.
    """
    also = firewall.docker_options_needed(told.settings) if firewalled else {}
    given, problems = flags(want, told, also)
    return given, [*told.problems, *problems, *contradictions(want, told)]


def flags(
    want: DesiredDockerOptions, told: DockerdConfig, also: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """dockerd's flags, and a sentence for each option that is decided otherwise.

    `also` are more options, by their names in daemon.json. What daemon.json has, be it null, is no flag: dockerd
    refuses it in both. What docker.service has on its own command line stands before ours, so ours count; but for a
    bridge, which goes with no bip.
    """
    given, problems = [], []
    daemon_json, bridge = told.daemon_json or {}, told.settings.get("bridge")
    for name, value in {**want.options(), **(also or {})}.items():
        if name in daemon_json:
            if word(daemon_json[name]) != value:
                problems.append(
                    f"{told.file} sets {name} to {plain(word(daemon_json[name]))}, overlayd needs {value}; "
                    "remove it there"
                )
        elif name == "bip" and bridge:
            problems.append(
                f"{told.where('bridge')} sets bridge to {sanitized(bridge)}, so docker has no bip: its containers "
                f"are not on the overlay; remove it, or give that bridge {value}"
            )
        else:
            given.append(f"--{name}={value}")
    return given, problems


def contradictions(want: DesiredDockerOptions, told: DockerdConfig) -> list[str]:
    """A sentence for each option, wherever it is said, that does not go with the leased subnets."""
    found = []
    for version, name, then in (
        (4, "default-gateway", "docker will not start"),
        (4, "fixed-cidr", "containers get addresses that are not of this host, or none"),
        (6, "default-gateway-v6", "docker will not start"),
        (6, "bip6", "docker will not start"),
    ):
        value, subnet = told.settings.get(name), want.subnets.v4 if version == 4 else want.subnets.v6
        if value and subnet is not None and not _lies_in(word(value), subnet):
            found.append(
                f"{told.where(name)} sets {name} to {plain(word(value))}, which is not in the leased {subnet}: {then}; "
                "remove it there"
            )
    for name in told.flags:
        if (key := docker_flags.KEYS.get(name, name)) in (told.daemon_json or {}):
            found.append(
                f"{told.flags[name].where} sets --{name}, and {told.file} {key}: docker will not start; "
                "remove one of them"
            )
    return found


def record(want: DesiredDockerOptions, *, firewalled: bool) -> str:
    """docker.json: all but what others tell docker, from which `prepare` makes docker.env anew."""
    return json.dumps(
        {
            "subnet": str(want.subnets.v4) if want.subnets.v4 else None,
            "subnet6": str(want.subnets.v6) if want.subnets.v6 else None,
            "mtu_bytes": want.mtu_bytes,
            "ip_masq": want.ip_masq,
            "firewalled": firewalled,
        }
    )


def prepare(run_dir: Path, told: DockerdConfig, *, anew: bool = True) -> None:
    """Write docker.env by what docker is told now; `anew`, only where it is there. For the moment when docker starts.

    Raises OverlaydError; docker.env is then as it was.
    """
    path = run_dir / DOCKER_ENV
    if anew and (not path.exists() or told.daemon_json is None):
        # Without a subnet docker is refused a start; and with such a daemon.json it will refuse by itself.
        return
    try:
        want, firewalled = _recorded(run_dir / RECORD)
        write_atomically(path, env_file(plan(want, told, firewalled=firewalled)[0]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OverlaydError(f"{path} stays as it is: {error!r}") from error


def _recorded(path: Path) -> tuple[DesiredDockerOptions, bool]:
    found = read_json(path)
    v4, v6 = found["subnet"], found["subnet6"]
    subnets = Subnets(v4=IPv4Network(v4) if v4 else None, v6=IPv6Network(v6) if v6 else None)
    want = DesiredDockerOptions(subnets=subnets, mtu_bytes=int(found["mtu_bytes"]), ip_masq=bool(found["ip_masq"]))
    return want, bool(found["firewalled"])


def _lies_in(text: str, subnet: IPv4Network | IPv6Network) -> bool:
    """Whether an address, or a network, is one of the subnet's. What is none is dockerd's to refuse."""
    for kind in (ip_address, ip_interface):
        try:
            found = kind(text)
        except ValueError:
            continue
        if "/" not in text:
            return found in subnet
        within = ip_network(text, strict=False)
        return within.version == subnet.version and within.subnet_of(subnet)  # type: ignore[arg-type]
    return True


def env_file(options: list[str]) -> str:
    """docker.env: the variable that the drop-in appends to dockerd's command line."""
    return f'{VARIABLE}="{" ".join(options)}"\n'


def bridge_problem(subnets: Subnets, addresses: tuple[IPInterface, ...] | None) -> str | None:
    """What is wrong with docker0's addresses, given the leased subnets; None if nothing is, or no docker0 is there."""
    if addresses is None or all(first_host(subnet) in addresses for subnet in subnets):
        return None
    has = ", ".join(str(one) for one in addresses if not one.is_link_local) or "no address"
    return f"{BRIDGE} has {has}, not the leased {subnets}: containers cannot be reached until docker is restarted"
