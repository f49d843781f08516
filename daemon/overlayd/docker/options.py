"""The options that dockerd needs for the lease, what contradicts them, and docker.env, which hands them over.

dockerd reads its bridge's subnet, MTU and masquerading at start only, from flags or from daemon.json. An option in both
stops it ("specified both as a flag and in the configuration file"): so what daemon.json sets is no flag, and is
reported where it differs from the lease.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path

from overlayd import firewall
from overlayd.docker import flags as docker_flags
from overlayd.docker.dockerd_config import VARIABLE, DockerdConfig
from overlayd.docker.flags import as_flag
from overlayd.errors import OverlaydError
from overlayd.leases.subnets import Subnets
from overlayd.lib.addresses import IPInterface, first_host
from overlayd.lib.files import read_json, write_atomically
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain, sanitized

BRIDGE = "docker0"
# Files in the run directory: DOCKER_ENV is read by docker.service, and `prepare` makes it from RECORD.
DOCKER_ENV, RECORD = "docker.env", "docker.json"


@dataclass(frozen=True, kw_only=True)
class DesiredDockerOptions:
    """How docker's default bridge has to be on this host: its address is the first of the subnet."""

    subnets: Subnets
    mtu_bytes: int
    ip_masq: bool

    def options(self) -> dict[str, str]:
        """The options by their names in daemon.json, which are also dockerd's long flags."""
        found = {}
        if self.subnets.v4:
            found["bip"] = str(first_host(self.subnets.v4))
        if self.subnets.v6:
            # There is no bip6 here: Docker itself gives the bridge the first address.
            found |= {"ipv6": "true", "fixed-cidr-v6": str(self.subnets.v6)}
        return {**found, "ip-masq": as_flag(self.ip_masq), "mtu": str(self.mtu_bytes)}


def desired_options(subnets: Subnets, mtu_bytes: int, *, we_masquerade: bool) -> DesiredDockerOptions:
    """The options for these subnets. Where overlayd masquerades Docker must not: peers would see the host's address."""
    return DesiredDockerOptions(subnets=subnets, mtu_bytes=mtu_bytes, ip_masq=not we_masquerade)


def plan(desired: DesiredDockerOptions, config: DockerdConfig, *, firewalled: bool) -> tuple[list[str], list[str]]:
    """The flags that overlayd gives dockerd, and a sentence for each thing in `config` that contradicts the lease.

    `firewalled`: overlayd writes firewall rules, which need more options where dockerd uses nftables.
    """
    extra = firewall.docker_options_needed(config.settings) if firewalled else {}
    chosen, problems = choose_flags(desired, config, extra)
    return chosen, [*config.problems, *problems, *contradictions(desired, config)]


def choose_flags(
    desired: DesiredDockerOptions, config: DockerdConfig, extra: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """The flags that overlayd gives dockerd, and a sentence for each option that others set to another value.

    `extra` are more options, by their names in daemon.json. An option that daemon.json has, even as null, is no flag,
    as dockerd refuses it in both. Flags of docker.service stand before ours, and dockerd takes the last one: so they
    are no problem, except `bridge`, which dockerd refuses together with `bip`.
    """
    chosen, problems = [], []
    daemon_json, bridge = config.daemon_json or {}, config.settings.get("bridge")
    for name, value in {**desired.options(), **(extra or {})}.items():
        if name in daemon_json:
            if as_flag(daemon_json[name]) != value:
                problems.append(
                    f"{config.file} sets {name} to {plain(as_flag(daemon_json[name]))}, overlayd needs {value}; "
                    "remove it there"
                )
        elif name == "bip" and bridge:
            problems.append(
                f"{config.where('bridge')} sets bridge to {sanitized(bridge)}, so docker has no bip: its containers "
                f"are not on the overlay; remove it, or give that bridge {value}"
            )
        else:
            chosen.append(f"--{name}={value}")
    return chosen, problems


def contradictions(desired: DesiredDockerOptions, config: DockerdConfig) -> list[str]:
    """A sentence for each option, in whichever file, that keeps docker from working on the leased subnets."""
    found = []
    for version, name, effect in (
        (4, "default-gateway", "docker will not start"),
        (4, "fixed-cidr", "containers get addresses that are not of this host, or none"),
        (6, "default-gateway-v6", "docker will not start"),
        (6, "bip6", "docker will not start"),
    ):
        value, subnet = config.settings.get(name), desired.subnets.v4 if version == 4 else desired.subnets.v6
        if value and subnet is not None and not _lies_in(as_flag(value), subnet):
            found.append(
                f"{config.where(name)} sets {name} to {plain(as_flag(value))}, which is not in the leased {subnet}: "
                f"{effect}; remove it there"
            )
    for name in config.flags:
        if (key := docker_flags.KEYS.get(name, name)) in (config.daemon_json or {}):
            found.append(
                f"{config.flags[name].where} sets --{name}, and {config.file} {key}: docker will not start; "
                "remove one of them"
            )
    return found


def record(desired: DesiredDockerOptions, *, firewalled: bool) -> str:
    """The text of docker.json: what `prepare` needs of the lease and the settings to make docker.env again."""
    return json.dumps(
        {
            "subnet": str(desired.subnets.v4) if desired.subnets.v4 else None,
            "subnet6": str(desired.subnets.v6) if desired.subnets.v6 else None,
            "mtu_bytes": desired.mtu_bytes,
            "ip_masq": desired.ip_masq,
            "firewalled": firewalled,
        }
    )


def prepare(run_dir: Path, config: DockerdConfig, *, anew: bool = True) -> None:
    """Write docker.env from docker.json and from what `config` has now. docker.service runs this each time it starts.

    With `anew` only an existing docker.env is rewritten. Raises OverlaydError; docker.env is then as it was.
    """
    path = run_dir / DOCKER_ENV
    if anew and (not path.exists() or config.daemon_json is None):
        # Without docker.env there is no subnet, and the drop-in refuses the start; dockerd refuses such a daemon.json.
        return
    try:
        desired, firewalled = _recorded(run_dir / RECORD)
        write_atomically(path, env_file(plan(desired, config, firewalled=firewalled)[0]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OverlaydError(f"{path} stays as it is: {error!r}") from error


def _recorded(path: Path) -> tuple[DesiredDockerOptions, bool]:
    found = read_json(path)
    v4, v6 = found["subnet"], found["subnet6"]
    subnets = Subnets(v4=IPv4Network(v4) if v4 else None, v6=IPv6Network(v6) if v6 else None)
    desired = DesiredDockerOptions(subnets=subnets, mtu_bytes=int(found["mtu_bytes"]), ip_masq=bool(found["ip_masq"]))
    return desired, bool(found["firewalled"])


def _lies_in(text: str, subnet: IPv4Network | IPv6Network) -> bool:
    """Whether an address or a network lies in the subnet. True for any other text, which dockerd itself refuses."""
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
    """A sentence where docker0 lacks an address of the leased subnets; None where it has them, or does not exist."""
    if addresses is None or all(first_host(subnet) in addresses for subnet in subnets):
        return None
    has = ", ".join(str(one) for one in addresses if not one.is_link_local) or "no address"
    return f"{BRIDGE} has {has}, not the leased {subnets}: containers cannot be reached until docker is restarted"
