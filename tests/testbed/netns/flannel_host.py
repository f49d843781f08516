"""A host that runs flannel, as far as its peers and etcd can tell: programmed by hand, as flannel 0.28 lays things out.

Nothing of overlayd is used for it but the lab's namespaces: device flannel.1 without learning, its address the subnet's
base as a /32; a neighbour, a forwarding entry and an onlink route for each peer; a lease of 24 hours, by etcdctl.
"""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import ETCD, NETWORK, Host, Lab

PREFIX = "/coreos.com/network"
LEASE_S = 86400
MTU_BYTES = {"vxlan": 1450, "host-gw": 1500, "udp": 1472}


def etcdctl(lab: Lab, *words: str) -> str:
    """Talk to the lab's etcd as somebody else's tool does."""
    return lab.run(["env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={ETCD}", *words])


def key(subnet: IPv4Network | str) -> str:
    """The key of a lease of this subnet."""
    return f"{PREFIX}/subnets/{str(subnet).replace('/', '-')}"


def publish(lab: Lab, subnet: IPv4Network | str, value: dict[str, Any]) -> str:
    """Write a lease that hangs on an etcd lease of 24 hours; that one's id."""
    lease_id = etcdctl(lab, "lease", "grant", str(LEASE_S)).split()[1]
    etcdctl(lab, "put", f"--lease={lease_id}", key(subnet), json.dumps(value, separators=(",", ":")))
    return lease_id


def published(lab: Lab, subnet: IPv4Network | str) -> dict[str, Any]:
    """The value of a lease."""
    found: dict[str, Any] = json.loads(etcdctl(lab, "get", "--print-value-only", key(subnet)))
    return found


class FlannelHost:
    """flannel on one host of the lab, with a container on its subnet. `kind` is the backend; `direct` DirectRouting."""

    def __init__(self, lab: Lab, name: str, subnet: str, kind: str, *, direct: bool = False) -> None:
        """Make the host, its subnet.env, its container, its device and its lease; no peer is known yet."""
        self.lab = lab
        self.host = lab.host(name, start=False)
        self.subnet = IPv4Network(subnet)
        self.kind = kind
        self._direct = direct
        self._lease_id = ""
        self._proxy: subprocess.Popen[str] | None = None
        self.start()
        self.host.start_container()

    def start(self) -> None:
        """What flanneld does before it knows of any peer."""
        host = self.host
        (host.run_dir / "subnet.env").write_text(
            f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={self.subnet[1]}/{self.subnet.prefixlen}\n"
            f"FLANNEL_MTU={MTU_BYTES[self.kind]}\nFLANNEL_IPMASQ=false\n"
        )
        host.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        value: dict[str, Any] = {"PublicIP": str(host.address), "PublicIPv6": None}
        if self.kind != "udp":
            # flannel's udp backend leaves the type out.
            value["BackendType"] = self.kind
        if self.kind == "vxlan":
            namespaces.ip(
                host.namespace,
                f"link add flannel.1 mtu 1450 type vxlan id 1 dstport 8472 local {host.address} dev eth0 nolearning",
                f"address add {self.subnet[0]}/32 dev flannel.1",
                "link set flannel.1 up",
            )
            mac = host.run("ip", "-j", "link", "show", "flannel.1")
            value["BackendData"] = {"VNI": 1, "VtepMAC": json.loads(mac)[0]["address"]}
        self._lease_id = publish(self.lab, self.subnet, value)

    def learn(self, *peers: Host) -> None:
        """What flanneld does for each peer, from the peer's lease in etcd; for udp, all there are."""
        if self.kind == "udp":
            self._start_proxy(peers)
            return
        for peer in peers:
            lease, subnet = published(self.lab, peer.subnet), peer.subnet
            if self.kind == "host-gw" or self._direct:
                commands = [f"route replace {subnet} via {lease['PublicIP']} dev eth0"]
            else:
                mac = lease["BackendData"]["VtepMAC"]
                commands = [
                    f"neighbour replace {subnet[0]} lladdr {mac} dev flannel.1 nud permanent",
                    f"route replace {subnet} via {subnet[0]} dev flannel.1 onlink",
                ]
                self.host.run("bridge", "fdb", "append", mac, "dst", lease["PublicIP"], "dev", "flannel.1")
            namespaces.ip(self.host.namespace, *commands)

    def leave(self) -> None:
        """Give the lease back; the host itself stays as it is."""
        etcdctl(self.lab, "lease", "revoke", self._lease_id)

    def stop(self) -> None:
        """End the proxy, if there is one."""
        if self._proxy is not None:
            # Closes its standard input, which ends it.
            self._proxy.communicate(timeout=10)
            self._proxy = None

    def _start_proxy(self, peers: tuple[Host, ...]) -> None:
        program = Path(__file__).parent / "flannel_udp.py"
        table = [f"{peer.subnet}={published(self.lab, peer.subnet)['PublicIP']}" for peer in peers]
        argv = [
            "ip",
            "netns",
            "exec",
            self.host.namespace,
            sys.executable,
            str(program),
            str(self.host.address),
            *table,
        ]
        self._proxy = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._proxy.stdout is not None
        assert self._proxy.stdout.readline() == "ready\n"
        namespaces.ip(
            self.host.namespace,
            f"address add {self.subnet[0]}/{NETWORK.prefixlen} dev flannel0",
            "link set flannel0 mtu 1472 up",
        )
