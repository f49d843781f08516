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
        print_line(f"  peer        {peer.subnet:18} {peer.public_ip:15} {peer.backend:8} {peer.problem or 'ok'}")
    for problem in (*found.problems, *found.docker_problems, found.etcd_problem):
        if problem:
            print_line(f"  problem     {problem}")
    for key, problem in found.skipped:
        print_line(f"  skipped     {key}: {problem}")
    return 0 if well else 1
