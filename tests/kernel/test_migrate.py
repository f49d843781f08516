"""A host with flannel's device and rules becomes an overlayd host by the commands that `migrate flannel` prints."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network

import pytest

from tests.testbed.netns.lab import ETCD, Host, Lab, environment
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

# As flannel 0.28 makes them; the network is the lab's.
FLANNELS = """\
ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 nolearning
ip address add {subnet[0]}/32 dev flannel.1
ip link set flannel.1 up
iptables -t nat -N FLANNEL-POSTRTG
iptables -t nat -A FLANNEL-POSTRTG -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j RETURN
iptables -t nat -I POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
iptables -N FLANNEL-FWD
iptables -A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
iptables -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
iptables -A FORWARD -s 10.99.0.0/24 -j DROP
"""
SUBNET_ENV = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={subnet[1]}/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


@pytest.fixture
def subnet(lab: Lab) -> IPv4Network:
    """A subnet that no host of the lab has leased."""
    leased = lab.etcdctl("get", "--prefix", "--keys-only", "/coreos.com/network/subnets/")
    return next(one for one in IPv4Network("10.5.76.0/22").subnets(new_prefix=24) if f"/{one[0]}-24" not in leased)


@pytest.fixture
def old(lab: Lab, subnet: IPv4Network) -> Iterator[Host]:
    """A host on the switch, on which flannel left its device and rules."""
    host = lab.host("c", lease_ttl_s=5, start=False)
    try:
        host.run("sh", "-e", "-c", FLANNELS.format(subnet=subnet))
        yield host
    finally:
        lab.remove_host(host)
        # Other tests use the lab too, and must not wait for this lease to end.
        lab.etcdctl("del", f"/coreos.com/network/subnets/{subnet[0]}-24")


def test_a_flannel_host_keeps_its_subnet_and_loses_flannels_rules(old: Host, a: Host, subnet: IPv4Network) -> None:
    theirs, file = old.run_dir / "flannel", old.run_dir / "sysconfig"
    theirs.mkdir()
    (theirs / "flanneld").write_text(f'FLANNEL_ETCD_ENDPOINTS="{ETCD}"\nFLANNEL_OPTIONS="--iface eth0 --ip-masq"\n')
    (theirs / "subnet.env").write_text(SUBNET_ENV.format(subnet=subnet))
    file.touch()
    said = subprocess.run(
        [
            *old.overlayd("migrate", "flannel", "--yes"),
            f"--config-file={file}",
            f"--flannel-sysconfig={theirs / 'flanneld'}",
            f"--flannel-subnet-env={theirs / 'subnet.env'}",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"OVERLAYD_ETCD_ENDPOINTS={ETCD}\n" in file.read_text()
    commands = [line.strip() for line in said.partition("then, as root:")[2].splitlines()]
    # There is no systemd here, so commands of systemctl are skipped.
    ours = [line for line in commands if line.startswith(("test ", "iptables ", "ip6tables "))]
    assert "test ! -e /sys/class/net/flannel.1 || ip link delete flannel.1" in ours
    old.run("sh", "-e", "-c", "\n".join(ours))
    # As if flanneld had removed its device.
    old.run("sh", "-e", "-c", ours[0])
    assert "flannel" not in (old.run("iptables-save") + old.run("ip", "link")).lower()
    assert "-A FORWARD -s 10.99.0.0/24 -j DROP" in old.run("iptables-save")
    old.start()
    old.start_container()
    assert old.subnet == subnet
    eventually("a reaches it", partial(pings, a, old))
