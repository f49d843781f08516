"""A host is moved from flannel to overlayd and back on the same subnet, while another host pings its container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.netns.families import host_on
from tests.testbed.netns.flannel_host import FlannelHost, publish, published
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pinging, pings
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

SUBNET = "10.5.210.0/24"
INTERVAL_S = 0.01
# Several times as much as a quiet machine loses, as the machine may be busy.
LOST_AT_MOST = 150
CLSACT_LOST_AT_MOST = 30


@pytest.fixture(params=["vxlan", "host-gw"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A network with one overlayd host, which stays."""
    with laboratory(tmp_path_factory.mktemp("move"), {"Type": request.param}) as lab:
        host_on(lab, "a", "10.5.20.0/24")
        yield lab


def test_a_host_is_moved_from_flannel_and_back(
    lab: Lab, request: pytest.FixtureRequest, record_property: Recorder
) -> None:
    (ours,) = lab.hosts
    kind = request.node.callspec.params["lab"]
    flannel = FlannelHost(lab, "f", SUBNET, kind)
    moved = flannel.host
    flannel.learn(ours)
    eventually("the two reach each other", lambda: pings(ours, moved) and pings(moved, ours))

    with pinging(ours, moved, interval_s=INTERVAL_S) as there:
        to_overlayd(moved, kind)
        eventually("it is reached under overlayd", lambda: pings(ours, moved) and pings(moved, ours))
    assert str(moved.subnet) == SUBNET
    assert published(lab, SUBNET)["PublicIP"] == str(moved.address)

    with pinging(ours, moved, interval_s=INTERVAL_S) as back:
        # Its lease has its address, by which flannel finds it: the same subnet, with flannel's MAC.
        moved.stop()
        moved.cleanup()
        flannel.start()
        flannel.learn(ours)
        eventually("it is reached under flannel", lambda: pings(ours, moved) and pings(moved, ours))
    for name, losses in (("there", there), ("back", back)):
        losses.fault(f"host moved from flannel, {name}", kind).record(record_property)
        assert losses.lost <= LOST_AT_MOST, (name, losses)
    if kind == "host-gw":
        # flannel's routes are taken over in place. Before Linux 6.6 an interface sends nothing for a moment when
        # clsact comes to it, at the first start of the fast path (kernel/tc.py).
        assert there.lost <= CLSACT_LOST_AT_MOST, there


def to_overlayd(host: Host, kind: str) -> None:
    """Do what an administrator does: stop flanneld, which leaves its device; start overlayd; delete the device."""
    host.start(ready=False)
    if kind == "vxlan":
        eventually("overlayd says what is in its way", lambda: "ip link delete flannel.1" in host.log.read_text())
        host.run("ip", "link", "delete", "flannel.1")
    eventually("overlayd is ready", lambda: host.status().get("state") == "ready", timeout_s=30)


def test_the_subnet_is_kept_also_where_etcd_forgot_the_lease(lab: Lab) -> None:
    third = lab.host("g", start=False)
    # overlayd's setting names flannel's subnet.env; etcd has no lease any more.
    (third.run_dir / "subnet.env").write_text(
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.211.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    third.start()
    assert str(third.subnet) == "10.5.211.0/24"
    # But a subnet that another host holds is not taken.
    fourth = lab.host("h", start=False)
    publish(lab, "10.5.212.0/24", {"PublicIP": "198.18.1.77", "BackendType": "host-gw"})
    (fourth.run_dir / "subnet.env").write_text("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.212.1/24\n")
    fourth.start()
    assert str(fourth.subnet) != "10.5.212.0/24"
