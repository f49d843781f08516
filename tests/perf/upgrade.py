"""`python -m tests.perf.upgrade BASE FILE`: how long it takes until a host runs a changed line of the daemon.

tests.perf.build runs it as a process in the clone that it changes, with the dockerd that DOCKER_HOST names.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path

from images.bases.local_repository import RPM_REPOSITORY
from images.engine.annotations import version
from overlayd.errors import CommandFailed, OverlaydError
from rpm import source
from tests.testbed.cluster.create import ROOT, remove
from tests.testbed.cluster.description import Cluster
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.packaged import tar
from tests.testbed.cluster.site import ClusterSite
from tests.testbed.cluster.steps import etcd, hosts, leases, network_config, networks
from tests.testbed.polling import eventually

NAME = "upgrade"
UNDERLAY = IPv4Network("198.18.31.0/24")
_RPM = "/root/overlayd-new.rpm"
_READY_S = 60.0
_ACTIVE = {"ActiveState": "active"}


def main(base: str, figure: Path) -> None:
    """Start a host, change a line, build, upgrade; write the seconds of each part. Raises OverlaydError."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    site = ClusterSite(cluster=Cluster(name=NAME, base=base, hosts=1, underlay=UNDERLAY))
    try:
        for step in (networks, etcd, network_config, hosts, leases):
            step.make(site)
        figure.write_text(json.dumps(parts_s(site.hosts[0], base)) + "\n")
    finally:
        remove(NAME)


def parts_s(machine: Machine, base: str) -> dict[str, float]:
    """Seconds from the changed line to the RPM, and from the RPM to a ready new daemon; asserts that docker runs on."""
    before = machine.status()["pid"]
    docker = machine.unit("docker", "MainPID", "ActiveState")
    began = time.monotonic()
    number = change_a_line()
    command = [sys.executable, "-m", "invoke", "rpm.build", "--base", base]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    package_s = time.monotonic() - began
    (built,) = (ROOT / "build" / RPM_REPOSITORY.folder).glob(f"overlayd-{number}-*.rpm")
    machine.container.put_archive("/root", tar({_RPM: built.read_bytes()}))
    # Installed from a file: the package is not signed yet, and the host reaches no repository.
    options = ("--assumeyes", "--setopt=reposdir=/nonexistent", "--nogpgcheck")
    machine.run("yum", *options, "upgrade", _RPM)
    eventually(
        "the new daemon is ready",
        lambda: machine.status().get("version") == number and machine.unit("overlayd", "ActiveState") == _ACTIVE,
        timeout_s=_READY_S,
    )
    whole_s = time.monotonic() - began
    if machine.status()["pid"] == before or machine.unit("docker", "MainPID", "ActiveState") != docker:
        raise OverlaydError(f"the daemon was not restarted, or docker was: {machine.status()}, {docker}")
    return {"build": package_s, "upgrade": whole_s - package_s}


def change_a_line() -> str:
    """Change the line with the daemon's version, as an upgrade needs a higher one; the new version."""
    path = ROOT / source.PACKAGE / "__init__.py"
    old = version(ROOT)
    path.write_text(path.read_text().replace(f'\n__version__ = "{old}"\n', f'\n__version__ = "{old}.1"\n'))
    new = version(ROOT)
    if new == old:
        raise OverlaydError(f"{path} has no line that could be changed")
    return new


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
