"""`overlayd lease list` asks etcd and prints: it loads neither the daemon nor netlink."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys
from overlayd import cli
status = cli.main(["lease", "list", "--etcd-endpoints", "http://127.0.0.1:1"])
print(json.dumps([status, sorted(sys.modules)]))
"""


def test_the_leases_are_listed_without_the_daemon_and_without_netlink() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert "list /coreos.com/network/subnets/" in done.stderr
    status, modules = json.loads(done.stdout)
    assert status == 1
    unwanted = ("overlayd.daemon", "overlayd.host", "overlayd.kernel", "overlayd.leases.registry", "pyroute2")
    assert [name for name in modules if name.startswith(unwanted)] == []
