"""compose/tls.yaml: three etcds with TLS and a host; one or two etcds are killed, and wrong members are refused."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from docker.models.containers import Container

from tests.testbed.cluster.composing import Composed
from tests.testbed.cluster.docker_engine import outcome
from tests.testbed.cluster.machine import Machine
from tests.testbed.cluster.steps import leases
from tests.testbed.polling import eventually

_UNDERLAY = "198.18.45"
_SERVICES = ("etcd1", "etcd2", "etcd3", "network-config", "host1")
_MEMBERS = _SERVICES[:3]
_PEER = f'{{"PublicIP":"{_UNDERLAY}.12","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:12"}}}}'
# A second etcd-start beside a running member. It has to end with an error before it becomes etcd.
_BESIDE = {
    "ETCD_LISTEN_CLIENT_URLS": "https://0.0.0.0:4379",
    "ETCD_LISTEN_PEER_URLS": "https://0.0.0.0:4380",
    "ETCD_DATA_DIR": "/var/lib/etcd/beside",
}


@pytest.fixture(scope="module")
def composed(base: str) -> Iterator[dict[str, Container]]:
    """The containers that compose started, by service."""
    cluster = Composed(file="tls.yaml", project="overlayd-test-tls", underlay=_UNDERLAY, base=base)
    try:
        cluster.run("up", "--detach", *_SERVICES)
        yield {name: cluster.container(name) for name in _SERVICES}
    finally:
        cluster.remove()


@pytest.fixture(scope="module")
def host(composed: dict[str, Container]) -> Machine:
    """The host, when its daemon holds a lease."""
    machine = Machine("host1", IPv4Address(f"{_UNDERLAY}.11"), composed["host1"])
    leases.wait_for(machine)
    return machine


def _healthy(container: Container) -> bool:
    return outcome(container, "etcd-health")[0] == 0


def _all_healthy(composed: dict[str, Container]) -> None:
    for name in _MEMBERS:
        eventually(f"{name} is healthy", lambda name=name: _healthy(composed[name]))  # type: ignore[misc]


def _ctl(container: Container, *words: str) -> str:
    status, said = _tried(container, *words)
    assert status == 0, said
    return said


def _tried(container: Container, *words: str) -> tuple[int, str]:
    """Exit status and output of etcdctl, by etcd's root."""
    return outcome(container, "etcdctl-as", "/secrets/root", *words, as_user="root")


def test_daemon_takes_its_lease_from_etcd_with_certificates(host: Machine, composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    key = f"/coreos.com/network/subnets/{str(host.bip().network).replace('/', '-')}"
    assert str(host.address) in _ctl(composed["etcd2"], "get", "--print-value-only", key)
    assert host.status()["etcd_connected"]


def test_daemon_and_clients_go_on_with_two_of_three(host: Machine, composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    composed["etcd1"].kill("SIGKILL")
    try:
        eventually("etcd2 takes a write", lambda: _tried(composed["etcd2"], "put", "with-two", "yes")[0] == 0)
        # A lease as another host writes it becomes a peer of the daemon at once.
        _ctl(composed["etcd3"], "put", "/coreos.com/network/subnets/10.42.200.0-24", _PEER)
        eventually("the daemon has a peer", lambda: [peer["subnet"] for peer in host.status()["peers"]])
        assert host.status()["etcd_connected"]
    finally:
        composed["etcd1"].start()
    _all_healthy(composed)
    assert "yes" in _ctl(composed["etcd1"], "get", "with-two")
    _ctl(composed["etcd1"], "del", "/coreos.com/network/subnets/10.42.200.0-24")


def test_one_of_three_is_unhealthy(composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    for name in ("etcd2", "etcd3"):
        composed[name].kill("SIGSTOP")
    try:
        status, said = outcome(composed["etcd1"], "etcd-health")
        assert status == 1
        assert said.startswith("unhealthy: ")
        assert not _healthy(composed["etcd2"])
    finally:
        for name in ("etcd2", "etcd3"):
            composed[name].kill("SIGCONT")
    _all_healthy(composed)


def test_member_whose_volume_is_lost_is_told_how_to_come_back(composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    status, said = outcome(composed["etcd3"], "etcd-start", **_BESIDE)
    assert status == 2
    assert "the cluster knows etcd3 (member " in said
    assert f"etcdctl member add etcd3 --peer-urls=https://{_UNDERLAY}.4:2380, and start with ETCD_INITIAL" in said


def test_member_that_was_not_added_ends_with_an_explanation(composed: dict[str, Container]) -> None:
    cluster = f"etcd1=https://{_UNDERLAY}.2:2380,etcd2=https://{_UNDERLAY}.3:2380,etcd3=https://{_UNDERLAY}.4:2380"
    new = _BESIDE | {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_NAME": "etcd4"}
    listed = f"{cluster},etcd4=https://{_UNDERLAY}.5:2380"
    status, said = outcome(composed["etcd3"], "etcd-start", **new, ETCD_INITIAL_CLUSTER=listed)
    assert (status, "knows no member at" in said, "etcdctl member add etcd4" in said) == (2, True, True), said


def test_wrong_initial_cluster_is_compared_with_the_real_one(composed: dict[str, Container]) -> None:
    wrong = f"etcd3=https://{_UNDERLAY}.4:2380,etcd1=https://{_UNDERLAY}.2:2380,etcd9=https://{_UNDERLAY}.9:2380"
    new = _BESIDE | {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": wrong}
    status, said = outcome(composed["etcd3"], "etcd-start", **new)
    assert status == 2
    assert f"it lacks https://{_UNDERLAY}.3:2380 and has https://{_UNDERLAY}.9:2380 too much" in said


def test_a_member_that_reaches_no_other_names_the_address_and_the_reason(composed: dict[str, Container]) -> None:
    alone = f"etcd3=https://{_UNDERLAY}.4:2380,etcd9=https://{_UNDERLAY}.3:9"
    new = _BESIDE | {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": alone}
    status, said = outcome(composed["etcd3"], "etcd-start", **new)
    assert (status, f"https://{_UNDERLAY}.3:9 (Connection refused)" in said) == (2, True), said


def test_data_of_another_cluster_is_refused(composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    # etcd's root takes the snapshot. The container's root has no capabilities and cannot write on the volume.
    save = """
        export ETCDCTL_ENDPOINTS="${ETCDCTL_ENDPOINTS%%,*}"
        etcdctl-as /secrets/root snapshot save /dev/shm/snapshot && chmod a+r /dev/shm/snapshot
    """
    restore = """
        etcdctl snapshot restore /dev/shm/snapshot --data-dir "$ETCD_DATA_DIR" \
            --name etcd3 --initial-cluster "$ETCD_INITIAL_CLUSTER" --initial-cluster-token another \
            --initial-advertise-peer-urls "$OWN"
    """
    restored = _BESIDE | {"ETCD_DATA_DIR": "/var/lib/etcd/restored", "OWN": f"https://{_UNDERLAY}.4:2380"}
    for script, user in ((save, "root"), (restore, "")):
        status, said = outcome(composed["etcd3"], "sh", "-c", script, as_user=user, **restored)
        assert status == 0, said
    status, said = outcome(composed["etcd3"], "etcd-start", **restored)
    assert status == 2
    assert "the data is of cluster " in said
    assert "mount this member's own volume" in said
