"""Two hosts publish one address: the second is refused, both are named, and no data path is removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A vxlan lab with hosts a and b."""
    with laboratory(tmp_path_factory.mktemp("duplicate"), {"Type": "vxlan"}) as lab:
        a, b = lab.host("a"), lab.host("b")
        eventually("b is reachable from a", lambda: pings(a, b))
        yield lab


ALPHA = '{"Hostname": "alpha", "ID": "0123456789abcdef"}'


def both_ways(a: Host, b: Host) -> bool:
    return pings(a, b) and pings(b, a)


def test_a_second_host_with_one_address_is_refused_and_both_are_named(lab: Lab, a: Host, b: Host) -> None:
    twin = lab.host("c", start=False)
    try:
        before = a.subnet
        twin.run("ip", "address", "add", f"{a.address}/32", "dev", "lo")
        twin.start(f"--public-ip={a.address}", ready=False)
        words = f"{a.address} is published by host"
        eventually("the second host says so", lambda: words in str(twin.status().get("problem")))
        problem = twin.status()["problem"]
        # Both have the name of this machine; their ids distinguish them.
        assert problem.count("host ") == 2
        assert len({word for word in problem.split() if word.startswith("(")}) == 2
        assert twin.status()["state"] == "waiting"
        assert not (twin.run_dir / "docker.env").exists()
        assert a.subnet == before
        assert pings(a, b)
        # When the first host dies, its claim ends, and the second one starts to serve.
        assert a.stop() == 0
        eventually("the second host goes on", lambda: twin.status().get("state") == "ready", timeout_s=40)
        assert twin.subnet == before
        assert twin.stop() == 0
        a.start()
        eventually("packets flow both ways", partial(both_ways, a, b))
    finally:
        lab.remove_host(twin)


def test_a_claim_that_another_host_took_meanwhile_is_reported_and_nothing_is_removed(
    lab: Lab, a: Host, b: Host
) -> None:
    key = f"/coreos.com/network/hosts/{a.address}"
    lease = next(word for word in lab.etcdctl("get", key, "-w", "fields").splitlines() if "Lease" in word)
    lab.etcdctl("lease", "revoke", f"{int(lease.split()[-1]):x}")
    lab.etcdctl("put", f"--lease={lab.etcdctl('lease', 'grant', '60').split()[1]}", key, ALPHA)
    eventually("a says so", lambda: "published by host alpha" in str(a.status()["problems"]), timeout_s=30)
    assert both_ways(a, b)
    # With the command that the hint gives.
    lab.etcdctl("del", key)
    eventually("a is content again", lambda: a.status()["problems"] == [], timeout_s=30)


def test_a_key_that_would_never_end_keeps_no_host_away(lab: Lab, a: Host) -> None:
    a.stop()
    lab.etcdctl("put", f"/coreos.com/network/hosts/{a.address}", ALPHA)
    a.start()
    assert a.status()["problems"] == []
    assert "taken over" in a.log.read_text()


def test_a_host_made_from_anothers_image_takes_a_subnet_of_its_own_and_disturbs_nobody(
    lab: Lab, a: Host, b: Host
) -> None:
    key = f"/coreos.com/network/subnets/{a.subnet.network_address}-24"
    before = lab.etcdctl("get", key, "-w", "fields")
    clone = lab.host("clone", start=False)
    try:
        shutil.copy(a.state_dir / "lease.json", clone.state_dir)
        clone.start()
        assert clone.subnet not in (a.subnet, b.subnet)
        assert f"({a.address}, " in clone.log.read_text()
        eventually("a has it as its peer", lambda: str(clone.subnet) in str(a.status()["peers"]))
        after = lab.etcdctl("get", key, "-w", "fields")
        assert [line for line in after.splitlines() if "ModRevision" in line] == [
            line for line in before.splitlines() if "ModRevision" in line
        ]
        assert both_ways(a, b)
    finally:
        lab.remove_host(clone)


def test_a_lease_that_another_host_took_is_not_taken_back(lab: Lab, b: Host) -> None:
    """As an older overlayd with a copy of this host's record takes it."""
    lost, key = b.subnet, f"/coreos.com/network/subnets/{b.subnet.network_address}-24"
    lease = json.loads((b.state_dir / "lease.json").read_text())["etcd_lease_id"]
    taker = '{"PublicIP":"198.18.1.99","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:11:22:33:44:55"}}'
    lab.etcdctl("put", f"--lease={lease:x}", key, taker)
    eventually(
        "b has another", lambda: b.status()["subnet"] not in (str(lost), None) and b.status()["state"] == "ready"
    )
    assert taker in lab.etcdctl("get", key)
    lab.etcdctl("del", key)
