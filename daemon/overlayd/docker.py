"""What docker must be told, and whether it does it.

Docker takes its bridge's subnet, MTU and masquerading at start only, from flags or from daemon.json but never both
("specified both as a flag and in the configuration file" stops it): what daemon.json says is left alone and reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlayd import process
from overlayd.addresses import IPInterface, first_host
from overlayd.errors import CommandFailed
from overlayd.files import read_json
from overlayd.lease import Subnets
from overlayd.log import logger
from overlayd.quoting import plain, quoted

log = logger("docker")

BRIDGE = "docker0"
UNIT = "docker.service"
DAEMON_JSON = Path("/etc/docker/daemon.json")
VARIABLE = "OVERLAYD_DOCKER_OPTIONS"
# Containers get their own time to stop.
RESTART_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
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
        return {**found, "ip-masq": _word(self.ip_masq), "mtu": str(self.mtu_bytes)}


def wanted(subnets: Subnets, mtu_bytes: int, *, we_masquerade: bool) -> Wanted:
    """Docker's part for leased subnets. Where we masquerade docker must not: it would hide containers from peers."""
    return Wanted(subnets=subnets, mtu_bytes=mtu_bytes, ip_masq=not we_masquerade)


def flags(
    want: Wanted, daemon_json: Mapping[str, Any], also: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """dockerd's flags, and a sentence for each option that daemon.json decides otherwise.

    `also` are more options, by their names in daemon.json.
    """
    given, problems = [], []
    for name, value in {**want.options(), **(also or {})}.items():
        found = daemon_json.get(name)
        if found is None and name == "bip" and daemon_json.get("bridge"):
            problems.append(
                f"{DAEMON_JSON} sets bridge to {quoted(daemon_json['bridge'])}, so docker has no bip: its containers "
                f"are not on the overlay; remove it, or give that bridge {value}"
            )
        elif found is None:
            given.append(f"--{name}={value}")
        elif _word(found) != value:
            problems.append(
                f"{DAEMON_JSON} sets {name} to {plain(_word(found))}, overlayd needs {value}; remove it there"
            )
    return given, problems


def read_daemon_json(path: Path = DAEMON_JSON) -> tuple[dict[str, Any], list[str]]:
    """daemon.json's settings, and what is wrong with the file; a missing one is empty."""
    try:
        found = read_json(path) if path.stat().st_size else {}
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        return {}, [f"{path} cannot be read, docker will not start: {error}"]
    return (found, []) if isinstance(found, dict) else ({}, [f"{path} is not a JSON object"])


def env_file(options: list[str]) -> str:
    """docker.env: the variable that the drop-in appends to dockerd's command line."""
    return f'{VARIABLE}="{" ".join(options)}"\n'


def bridge_problem(subnets: Subnets, addresses: tuple[IPInterface, ...] | None) -> str | None:
    """What is wrong with docker0's addresses, given the leased subnets; None if nothing is, or no docker0 is there."""
    if addresses is None or all(first_host(subnet) in addresses for subnet in subnets):
        return None
    has = ", ".join(str(one) for one in addresses if not one.is_link_local) or "no address"
    return f"{BRIDGE} has {has}, not the leased {subnets}: containers cannot be reached until docker is restarted"


def settle(problem: str | None, *, restart: str) -> None:
    """Bring docker up on the subnet as far as this host's settings allow; else say what has to be done. Never raises.

    A docker that was refused a start for want of a subnet, or that is enabled and was never started in this boot, is
    started. One that runs on another bridge address (`problem`) is restarted: `restart` is the setting docker-restart,
    `idle` (only if it runs no container), `never` or `always`.
    """
    try:
        unit = _show("LoadState", "ActiveState", "UnitFileState", "Job", "InactiveEnterTimestampMonotonic")
    except CommandFailed:
        return  # no systemd here: somebody else starts docker
    if unit["LoadState"] != "loaded" or unit["Job"] not in ("", "0"):
        return
    state = unit["ActiveState"]
    never_started = unit["InactiveEnterTimestampMonotonic"] == "0" and unit["UnitFileState"] == "enabled"
    if state == "failed" or (state == "inactive" and never_started):
        log.info("starting docker, which waited for the subnet", unit=UNIT)
        _systemctl("reset-failed", UNIT)
        _systemctl("start", "--no-block", UNIT)
    elif state == "active" and problem is not None:
        if restart == "always" or (restart == "idle" and _idle()):
            log.warning("restarting docker", reason=problem, docker_restart=restart)
            _systemctl("restart", "--no-block", UNIT)
        else:
            log.error("docker must be restarted: overlayd docker settle", problem=problem, docker_restart=restart)


def restart_now() -> None:
    """Restart docker, whatever runs in it, and wait for it. Raises CommandFailed."""
    process.run(["systemctl", "restart", UNIT], timeout_s=RESTART_TIMEOUT_S)


def _idle() -> bool:
    try:
        return not process.run(["docker", "ps", "--quiet"]).strip()
    except CommandFailed:
        return False


def _systemctl(*words: str) -> None:
    try:
        process.run(["systemctl", *words])
    except CommandFailed as error:
        log.warning("systemctl failed", problem=error.message)


def _show(*names: str) -> dict[str, str]:
    text = process.run(["systemctl", "show", UNIT, f"--property={','.join(names)}"])
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    return {name: found.get(name, "") for name in names}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else quoted(value)
