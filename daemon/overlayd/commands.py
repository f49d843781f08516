"""What the commands do and print. Failures are exceptions; the command line tells them."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from ipaddress import IPv4Address
from pathlib import Path

from overlayd import daemon, docker, firewall, hostlock
from overlayd import status as status_file
from overlayd.errors import BusyError, ConfigError, OverlaydError, PrivilegeError
from overlayd.host import DOCKER_ENV, load_backend
from overlayd.kernel import netlink
from overlayd.network import NetworkConfig, parse_network_config
from overlayd.registry import CONFIG, SUBNETS, read_network_config
from overlayd.settings import Settings
from overlayd.store.client import Store
from overlayd.underlay import Underlay


def run(settings: Settings) -> int:
    """Be the daemon."""
    daemon.run(settings)
    return 0


def check(settings: Settings) -> int:
    """Print all that `run` would find out before it changes anything. Fails as `run` would."""
    _print_fields("settings", _shown(settings))
    underlay = daemon.choose_underlay(settings)
    _print_fields(
        "underlay",
        {
            "interface": f"{underlay.ifname} ({underlay.reason})",
            "public ip": underlay.public_ip,
            "mtu": underlay.mtu_bytes,
        },
    )
    store = Store(daemon.store_settings(settings))
    try:
        config = read_network_config(store.get(f"{settings.etcd_prefix}/{CONFIG}"), settings.etcd_prefix)
        leases, revision = store.list_prefix(f"{settings.etcd_prefix}/{SUBNETS}")
    finally:
        store.close()
    backend = load_backend(config, underlay)
    _print_fields(
        "network",
        {
            "network": config.network,
            "subnets": f"{config.subnet_count()} of /{config.subnet_len}, {config.subnet_min} to {config.subnet_max}",
            "leased": f"{len(leases)} at etcd revision {revision}",
            "backend": f"{config.backend_type} {json.dumps(dict(config.backend_config))}",
            "devices": ", ".join(backend.devices),
            "container mtu": backend.mtu_bytes,
        },
    )
    _daemon_json, problems = docker.read_daemon_json()
    for problem in problems:
        _print(f"warning: {problem}")
    return 0


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the daemon's status; 0 when it is ready and nothing is wrong, else 1."""
    found = status_file.read(settings.run_dir)
    running = hostlock.held(settings.run_dir)
    if not running:
        found = dataclasses.replace(found, state="stopped" if found.state == "stopped" else "dead")
    well = found.state == "ready" and not (
        found.problem or found.problems or found.docker_problems or found.etcd_problem
    )
    if as_json:
        _print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0 if well else 1
    _print_fields(
        f"overlayd {found.version}: {found.state}",
        {
            "problem": found.problem,
            "subnet": f"{found.subnet} of {found.network}{' (reserved)' if found.reserved else ''}"
            if found.subnet
            else None,
            "backend": f"{found.backend}, container mtu {found.mtu_bytes}" if found.backend else None,
            "underlay": f"{found.public_ip} on {found.ifname} ({found.ifname_reason})",
            "etcd": f"{'connected' if found.etcd_connected else 'away'}, {','.join(found.etcd_endpoints)}",
            "firewall": found.firewall or "left alone",
        },
    )
    for peer in found.peers:
        _print(f"  peer        {peer.subnet:18} {peer.public_ip:15} {peer.backend:8} {peer.problem or 'ok'}")
    for problem in (*found.problems, *found.docker_problems, found.etcd_problem):
        if problem:
            _print(f"  problem     {problem}")
    for key, problem in found.skipped:
        _print(f"  skipped     {key}: {problem}")
    return 0 if well else 1


def config_get(settings: Settings) -> int:
    """Print the network config as it stands in etcd."""
    store = Store(daemon.store_settings(settings))
    try:
        found = store.get(f"{settings.etcd_prefix}/{CONFIG}")
    finally:
        store.close()
    read_network_config(found, settings.etcd_prefix)
    if found is not None:
        _print(found.value.decode())
    return 0


def config_set(settings: Settings, given: str) -> int:
    """Check a network config as every daemon would, then write it."""
    raw = _read_config(given)
    config = parse_network_config(raw)
    load_backend(config, _any_underlay())
    store = Store(daemon.store_settings(settings))
    try:
        leased, _revision = store.list_prefix(f"{settings.etcd_prefix}/{SUBNETS}")
        store.put(f"{settings.etcd_prefix}/{CONFIG}", json.dumps(json.loads(raw)).encode())
    finally:
        store.close()
    _print(f"{settings.etcd_prefix}/{CONFIG} written: {_summary(config)}; {len(leased)} hosts hold a lease and follow")
    return 0


def cleanup(settings: Settings) -> int:
    """Remove all of ours from the kernel and from the run directory. Not the lease: etcd ends it in time."""
    if os.geteuid() != 0:
        raise PrivilegeError("overlayd cleanup changes the host's network", hint="run it as root")
    if hostlock.held(settings.run_dir):
        raise BusyError("overlayd is running and would put everything back", hint="systemctl stop overlayd, then again")
    failures: list[str] = []
    for what in (firewall.cleanup, netlink.cleanup):
        try:
            for line in what():
                _print(f"removed {line}")
        except OverlaydError as error:
            failures.append(str(error))
    for path in (
        settings.run_dir / DOCKER_ENV,
        settings.subnet_env,
        settings.run_dir / status_file.FILE,
        settings.run_dir / hostlock.FILE,
    ):
        if path.exists():
            path.unlink()
            _print(f"removed {path}")
    if failures:
        raise OverlaydError("not everything could be removed:\n" + "\n".join(failures))
    return 0


def _any_underlay() -> Underlay:
    # Whoever writes the config need not be on a host of the network; only the config's own sense is checked here.
    nowhere = IPv4Address("192.0.2.1")
    return Underlay(
        ifname="lo",
        ifindex=1,
        address=nowhere,
        public_ip=nowhere,
        mtu_bytes=1500,
        reason="for the check only",
    )


def _read_config(given: str) -> str:
    if given.lstrip().startswith("{"):
        return given
    try:
        return sys.stdin.read() if given == "-" else Path(given).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"network config: {given!r} is neither JSON nor a readable file: {error}") from error


def _summary(config: NetworkConfig) -> str:
    return f"{config.network} in {config.subnet_count()} subnets of /{config.subnet_len}, backend {config.backend_type}"


def _shown(settings: Settings) -> dict[str, object]:
    shown: dict[str, object] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value and field.metadata["secret"]:
            value = "(not shown)"
        shown[field.name.replace("_", "-")] = ",".join(value) if isinstance(value, tuple) else value
    return shown


def _print_fields(title: str, values: dict[str, object]) -> None:
    _print(title)
    for key, value in values.items():
        if value not in (None, ""):
            shown = str(value).lower() if isinstance(value, bool) else value
            _print(f"  {key:<11} {shown}" if len(key) < 12 else f"  {key} {shown}")


def _print(text: str) -> None:
    print(text)  # noqa: T201
