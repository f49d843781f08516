"""`overlayd status`: what the daemon last said of itself."""

from __future__ import annotations

import argparse
import dataclasses
import json

from overlayd import hostlock
from overlayd import status as status_file
from overlayd.commands.output import print_fields, print_line
from overlayd.settings import Settings


def main(settings: Settings, options: argparse.Namespace) -> int:
    """Print the daemon's status; 0 when it is ready and nothing is wrong, else 1."""
    found = status_file.read(settings.run_dir)
    running = hostlock.held(settings.run_dir)
    if not running:
        found = dataclasses.replace(found, state="stopped" if found.state == "stopped" else "dead")
    well = found.state == "ready" and not (
        found.problem or found.problems or found.docker_problems or found.etcd_problem
    )
    if options.json:
        print_line(json.dumps(dataclasses.asdict(found), indent=2))
        return 0 if well else 1
    print_fields(
        f"overlayd {found.version}: {found.state}",
        {
            "problem": found.problem,
            "subnet": _both(found.subnet, found.subnet6) + (" (reserved)" if found.reserved else ""),
            "network": found.network,
            "backend": f"{found.backend}, container mtu {found.mtu_bytes}" if found.backend else None,
            "underlay": f"{_both(found.public_ip, found.public_ip6)} on {found.ifname} ({found.ifname_reason})",
            "etcd": f"{'connected' if found.etcd_connected else 'away'}, {','.join(found.etcd_endpoints)}",
            "firewall": found.firewall or "left alone",
        },
    )
    for peer in found.peers:
        subnets, addresses = _both(peer.subnet, peer.subnet6), _both(peer.public_ip, peer.public_ip6)
        print_line(f"  peer        {subnets:18} {addresses:15} {peer.path or peer.backend:8} {peer.problem or 'ok'}")
    for problem in (*found.problems, *found.docker_problems, found.etcd_problem):
        if problem:
            print_line(f"  problem     {problem}")
    for key, problem in found.skipped:
        print_line(f"  skipped     {key}: {problem}")
    return 0 if well else 1


def _both(one: str | None, other: str | None) -> str:
    return ", ".join(text for text in (one, other) if text)
