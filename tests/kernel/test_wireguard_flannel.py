"""An overlayd host and a host that is set up by hand as flannel 0.28 does it, with one etcd and both IP versions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from overlayd.lib import process
from tests.testbed.netns import wireguard_devices
from tests.testbed.netns.families import host_on
from tests.testbed.netns.lab import ETCD, NETWORK, NETWORK6, Host, Lab, laboratory
from tests.testbed.netns.traffic import lost_of_size, pings, pings6
from tests.testbed.polling import eventually

PREFIX = "/coreos.com/network/subnets"
PSK = base64.b64encode(b"\x0b" * 32).decode()
SUBNET, SUBNET6 = "10.5.77.0/24", "fd42:0:0:77::/64"
KEY = "10.5.77.0-24&fd42:0:0:77::-64"
DEVICES = {"flannel-wg": 51820, "flannel-wg-v6": 51821}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The overlayd host a, and host f without overlayd."""
    folder = tmp_path_factory.mktemp("flannel")
    with laboratory(folder, {"Type": "wireguard", "PSK": PSK, "Mode": "separate"}, dual=True) as lab:
        a, f = host_on(lab, "a", "10.5.20.0/24"), lab.host("f", start=False)
        be_flannel(lab, f, a)
        yield lab


def etcdctl(lab: Lab, *words: str) -> str:
    return lab.run(["env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={ETCD}", *words])


def published(lab: Lab, host: Host) -> dict[str, Any]:
    """A host's lease as it is in etcd."""
    (line,) = (
        line
        for line in etcdctl(lab, "get", "--prefix", "--print-value-only", PREFIX).splitlines()
        if f'"{host.address}"' in line
    )
    found: dict[str, Any] = json.loads(line)
    return found


def be_flannel(lab: Lab, host: Host, peer: Host) -> None:
    """Do by hand what flanneld does: devices, key, addresses, routes, peer, lease, subnet.env."""
    private = process.run(["wg", "genkey"]).strip()
    public = process.run(["wg", "pubkey"], input=private).strip()
    for name, text in (("private", private), ("psk", PSK)):
        (host.state_dir / name).write_text(text)
    theirs = published(lab, peer)
    assert theirs["BackendType"] == "wireguard"
    for (device, port), data, endpoint, subnet, address, network in (
        (("flannel-wg", 51820), "BackendData", str(peer.address), peer.subnet, "10.5.77.0/32", NETWORK),
        (("flannel-wg-v6", 51821), "BackendV6Data", f"[{peer.address6}]", peer.subnet6, "fd42:0:0:77::/128", NETWORK6),
    ):
        wireguard_devices.make(host.run, device)
        told = ["private-key", str(host.state_dir / "private"), "listen-port", str(port)]
        told += ["peer", theirs[data]["PublicKey"], "preshared-key", str(host.state_dir / "psk")]
        told += ["endpoint", f"{endpoint}:{port}", "allowed-ips", str(subnet)]
        host.run("wg", "set", device, *told)
        host.run("ip", "link", "set", device, "mtu", "1420")
        host.run("ip", "address", "add", address, "dev", device)
        host.run("ip", "link", "set", device, "up")
        host.run("ip", "route", "add", str(network), "dev", device)
    host.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    value = (
        f'{{"PublicIP":"{host.address}","PublicIPv6":"{host.address6}","BackendType":"wireguard",'
        f'"BackendData":{{"PublicKey":"{public}"}},"BackendV6Data":{{"PublicKey":"{public}"}}}}'
    )
    etcdctl(lab, "put", f"{PREFIX}/{KEY}", value)
    (host.run_dir / "subnet.env").write_text(
        f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET=10.5.77.1/24\nFLANNEL_IPV6_NETWORK={NETWORK6}\n"
        "FLANNEL_IPV6_SUBNET=fd42:0:0:77::1/64\nFLANNEL_MTU=1420\nFLANNEL_IPMASQ=true\n"
    )
    host.start_container()


def test_our_lease_has_the_fields_that_flannel_writes(lab: Lab) -> None:
    a, _ = lab.hosts
    lease = published(lab, a)
    assert list(lease) == ["PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data"]
    assert list(lease["BackendData"]) == list(lease["BackendV6Data"]) == ["PublicKey", "Port"]
    assert (lease["BackendData"]["Port"], lease["BackendV6Data"]["Port"]) == (51820, 51821)
    assert lease["BackendData"]["PublicKey"] == lease["BackendV6Data"]["PublicKey"]
    assert lease["BackendData"]["PublicKey"] == a.run("wg", "show", "overlay-wg", "public-key").strip()


def test_packets_cross_both_ways_in_both_families(lab: Lab) -> None:
    a, f = lab.hosts
    for one, other in ((f, a), (a, f)):
        eventually("over IPv4", lambda one=one, other=other: pings(one, other))  # type: ignore[misc]
        eventually("over IPv6", lambda one=one, other=other: pings6(one, other))  # type: ignore[misc]
    assert a.mtu_bytes == f.mtu_bytes == 1420
    for address in (None, f.container_address6):
        assert lost_of_size(a, f, 1420, address=address) == "0 of 2"


def test_flannels_new_key_is_followed(lab: Lab) -> None:
    a, f = lab.hosts
    private = process.run(["wg", "genkey"]).strip()
    public = process.run(["wg", "pubkey"], input=private).strip()
    # As after a reboot, which removes flannel's key from /run.
    (f.state_dir / "private").write_text(private)
    for device in DEVICES:
        f.run("wg", "set", device, "private-key", str(f.state_dir / "private"))
    lease = published(lab, f)
    lease["BackendData"] = lease["BackendV6Data"] = {"PublicKey": public}
    etcdctl(lab, "put", f"{PREFIX}/{KEY}", json.dumps(lease))
    eventually("a reaches f again", lambda: pings(a, f) and pings6(a, f))
    for device in ("overlay-wg", "overlay-wg-v6"):
        assert a.run("wg", "show", device, "peers").split() == [public]
