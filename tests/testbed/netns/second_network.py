"""A second overlay network on hosts of a lab: daemons, containers and a prefix of its own in the same namespaces."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host, Lab

PREFIX = "/second/network"
NETWORK = "10.6.0.0/16"


def configure(lab: Lab, backend: Mapping[str, Any], *, network: str = NETWORK, prefix: str = PREFIX) -> None:
    """Write the network config of another network, by the program's own command."""
    words = [f"--{name}={value}" for name, value in lab.etcd_flags.items()]
    words += [f"--etcd-prefix={prefix}", f"--config-file={os.devnull}"]
    config = json.dumps({"Network": network, "Backend": backend})
    lab.run([sys.executable, "-m", "overlayd", "config", "set", *words, config])


class SecondNetworkHost(Host):
    """The same host under another network-number. Its container hangs on a bridge that an administrator made."""

    def __init__(self, lab: Lab, host: Host, folder: Path, number: int = 1, **settings: object) -> None:
        """Values and folders only. `settings` are by flag, with `_` for `-`."""
        super().__init__(
            folder,
            f"{host.name}-{number}",
            int(host.address) & 0xFF,
            etcd_flags={**lab.etcd_flags, "etcd-prefix": PREFIX},
            settings={"network-number": number, **{name.replace("_", "-"): one for name, one in settings.items()}},
        )
        self.namespace, self.enter = host.namespace, host.enter
        self.bridge = f"br-second{number}"
        for one in (self.run_dir, self.state_dir):
            one.mkdir(parents=True, exist_ok=True)
        self.install("systemctl", "echo there is no systemd in this lab >&2; exit 1")

    def start_container(self) -> None:
        """See Host; as `docker network create --subnet` would make the bridge."""
        namespaces.make(self.container)
        namespaces.ip(
            self.namespace,
            f"link add {self.bridge} type bridge",
            f"address add {self.subnet[1]}/{self.subnet.prefixlen} dev {self.bridge}",
            f"link add v{self.bridge} type veth peer name eth0 netns {self.container}",
            f"link set v{self.bridge} master {self.bridge} up",
            f"link set {self.bridge} up",
        )
        namespaces.ip(
            self.container,
            f"link set eth0 mtu {self.mtu_bytes} up",
            f"address add {self.container_address}/{self.subnet.prefixlen} dev eth0",
            f"route add default via {self.subnet[1]}",
        )

    def remove(self) -> None:
        """End the daemon and remove the container; the host is the lab's."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None
        namespaces.remove(self.container)
