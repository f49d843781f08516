"""compose/tls.yaml: three etcds with TLS, and a host; one is killed, two are, and a member that does not belong."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from docker.models.containers import Container

from tests.cluster import docker_engine
from tests.cluster.create import ROOT
from tests.cluster.machine import Machine
from tests.cluster.steps import leases
from tests.polling import eventually

_PROJECT = "overlayd-test-tls"
_LABEL = f"com.docker.compose.project={_PROJECT}"
_UNDERLAY = "198.18.45"
_SERVICES = ("etcd1", "etcd2", "etcd3", "network-config", "host1")
_MEMBERS = _SERVICES[:3]
# One that looks at the cluster beside a member that runs, and never becomes etcd where all is well with the test.
_BESIDE = {
    "ETCD_LISTEN_CLIENT_URLS": "https://0.0.0.0:4379",
    "ETCD_LISTEN_PEER_URLS": "https://0.0.0.0:4380",
    "ETCD_DATA_DIR": "/var/lib/etcd/beside",
}


def _compose(base: str, *words: str) -> None:
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    argv = [*command, "--file", str(ROOT / "compose" / "tls.yaml"), "--project-name", _PROJECT, *words]
    variables = {**os.environ, "OVERLAYD_BASE": base, "OVERLAYD_UNDERLAY": _UNDERLAY}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=variables)
    assert done.returncode == 0, done.stderr


def _container(service: str) -> Container:
    labels: list[str] = [_LABEL, f"com.docker.compose.service={service}"]
    (found,) = docker_engine.client().containers.list(all=True, filters={"label": labels})
    return found


@pytest.fixture(scope="module")
def composed(base: str) -> Iterator[dict[str, Container]]:
    """The containers that compose started, by service."""
    try:
        _compose(base, "up", "--detach", *_SERVICES)
        yield {name: _container(name) for name in _SERVICES}
    finally:
        _compose(base, "down", "--volumes", "--timeout", "1")
        assert not docker_engine.names(_LABEL)


@pytest.fixture(scope="module")
def host(composed: dict[str, Container]) -> Machine:
    """The host, when its daemon holds a lease."""
    machine = Machine("host1", IPv4Address(f"{_UNDERLAY}.11"), composed["host1"])
    leases.wait_for(machine)
    return machine


def _call(container: Container, *argv: str, **variables: str) -> tuple[int, str]:
    # The stubs know neither that it has ended nor that its output is whole.
    done: Any = container.exec_run(list(argv), environment=variables)
    return int(done.exit_code), str(done.output.decode())


def _healthy(container: Container) -> bool:
    return _call(container, "etcd-health")[0] == 0


def _all_healthy(composed: dict[str, Container]) -> None:
    for name in _MEMBERS:
        eventually(f"{name} is healthy", lambda name=name: _healthy(composed[name]))  # type: ignore[misc]


def _ctl(container: Container, *words: str) -> str:
    status, said = _call(container, "etcdctl", *words)
    assert status == 0, said
    return said


def test_daemon_takes_its_lease_from_etcd_with_certificates(host: Machine, composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    key = f"/coreos.com/network/subnets/{str(host.bip().network).replace('/', '-')}"
    assert str(host.address) in _ctl(composed["etcd2"], "get", "--print-value-only", key)
    assert host.status()["etcd"]["connected"]


def test_daemon_and_clients_go_on_with_two_of_three(host: Machine, composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    composed["etcd1"].kill("SIGKILL")
    try:
        eventually("etcd2 takes a write", lambda: _call(composed["etcd2"], "etcdctl", "put", "with-two", "yes")[0] == 0)
        config = '{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"},"SubnetMin":"10.42.1.0"}'
        # Written through one of the two that are left, and read by one.
        host.run("overlayd", "config", "set", config)
        assert "10.42.1.0" in host.run("overlayd", "config", "get")
        eventually("the daemon is connected", lambda: host.status()["etcd"]["connected"])
    finally:
        composed["etcd1"].start()
    _all_healthy(composed)
    assert "yes" in _ctl(composed["etcd1"], "get", "with-two")


def test_one_of_three_is_unhealthy(composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    for name in ("etcd2", "etcd3"):
        composed[name].kill("SIGSTOP")
    try:
        status, said = _call(composed["etcd1"], "etcd-health")
        assert status == 1
        assert said.startswith("unhealthy: ")
        assert not _healthy(composed["etcd2"])
    finally:
        for name in ("etcd2", "etcd3"):
            composed[name].kill("SIGCONT")
    _all_healthy(composed)


def test_member_whose_volume_is_lost_is_told_how_to_come_back(composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    status, said = _call(composed["etcd3"], "etcd-start", **_BESIDE)
    assert status == 2
    assert "the cluster knows etcd3 (member " in said
    assert f"etcdctl member add etcd3 --peer-urls=https://{_UNDERLAY}.4:2380, and start with ETCD_INITIAL" in said


def test_member_that_was_not_added_is_told_so(composed: dict[str, Container]) -> None:
    cluster = f"etcd1=https://{_UNDERLAY}.2:2380,etcd2=https://{_UNDERLAY}.3:2380,etcd3=https://{_UNDERLAY}.4:2380"
    new = _BESIDE | {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_NAME": "etcd4"}
    listed = f"{cluster},etcd4=https://{_UNDERLAY}.5:2380"
    status, said = _call(composed["etcd3"], "etcd-start", **new, ETCD_INITIAL_CLUSTER=listed)
    assert (status, "knows no member at" in said, "etcdctl member add etcd4" in said) == (2, True, True), said


def test_wrong_initial_cluster_is_compared_with_the_real_one(composed: dict[str, Container]) -> None:
    wrong = f"etcd3=https://{_UNDERLAY}.4:2380,etcd1=https://{_UNDERLAY}.2:2380,etcd9=https://{_UNDERLAY}.9:2380"
    new = _BESIDE | {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": wrong}
    status, said = _call(composed["etcd3"], "etcd-start", **new)
    assert status == 2
    assert f"it lacks https://{_UNDERLAY}.3:2380 and has https://{_UNDERLAY}.9:2380 too much" in said


def test_nobody_to_join_is_named_with_the_reason(composed: dict[str, Container]) -> None:
    alone = f"etcd3=https://{_UNDERLAY}.4:2380,etcd9=https://{_UNDERLAY}.3:9"
    new = _BESIDE | {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": alone}
    status, said = _call(composed["etcd3"], "etcd-start", **new)
    assert (status, f"https://{_UNDERLAY}.3:9 (Connection refused)" in said) == (2, True), said


def test_data_of_another_cluster_is_refused(composed: dict[str, Container]) -> None:
    _all_healthy(composed)
    script = """
        export ETCDCTL_ENDPOINTS="${ETCDCTL_ENDPOINTS%%,*}"
        etcdctl snapshot save /var/lib/etcd/snapshot && etcdctl snapshot restore /var/lib/etcd/snapshot \
            --name etcd3 --initial-cluster "$ETCD_INITIAL_CLUSTER" --initial-cluster-token another \
            --initial-advertise-peer-urls "$OWN" --data-dir "$ETCD_DATA_DIR"
    """
    restored = _BESIDE | {"ETCD_DATA_DIR": "/var/lib/etcd/restored", "OWN": f"https://{_UNDERLAY}.4:2380"}
    status, said = _call(composed["etcd3"], "sh", "-c", script, **restored)
    assert status == 0, said
    status, said = _call(composed["etcd3"], "etcd-start", **restored)
    assert status == 2
    ids = [word for word in said.split() if len(word.rstrip(",.")) >= 15]
    assert "the data is of cluster " in said, ids
    assert "mount this member's own volume" in said
