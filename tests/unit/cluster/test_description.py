"""The description of a cluster, and the options for Docker that follow from it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from etcd_container import passwords, rights
from overlayd.errors import OverlaydError
from tests.testbed.cluster import plan
from tests.testbed.cluster.description import CLUSTER_LABEL, Cluster, backend_json, from_label

CLUSTER = Cluster(name="trial", base="some-base", hosts=2, underlay=IPv4Network("198.18.9.0/24"))
IMAGE = f"sha256:{'a' * 64}"


def test_addresses_are_fixed_and_apart() -> None:
    addresses = [CLUSTER.etcd_address, *(CLUSTER.address(name) for name in CLUSTER.host_names)]
    assert addresses == [IPv4Address(f"198.18.9.{number}") for number in (2, 11, 12)]


def test_network_config_is_flannels() -> None:
    assert CLUSTER.network_config == '{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}'


def test_description_survives_the_label() -> None:
    assert from_label(CLUSTER.to_label()) == CLUSTER


def test_label_of_another_version_says_what_to_do() -> None:
    with pytest.raises(OverlaydError, match=r"cluster\.down"):
        from_label('{"name": "x", "colour": "blue"}')


@pytest.mark.parametrize("hosts", [0, -1, 300])
def test_a_number_of_hosts_that_does_not_fit_is_refused(hosts: int) -> None:
    with pytest.raises(OverlaydError, match="allowed: 1 to"):
        Cluster(base="b", hosts=hosts)


def test_a_backend_that_the_daemon_would_refuse_is_refused() -> None:
    with pytest.raises(OverlaydError):
        Cluster(base="b", network=IPv4Network("10.0.0.0/31"))


@pytest.mark.parametrize(
    ("given", "expected"), [("udp", '{"Type":"udp"}'), ('{"Type":"vxlan","VNI":7}', '{"Type":"vxlan","VNI":7}')]
)
def test_backend_is_a_name_or_an_object(given: str, expected: str) -> None:
    assert backend_json(given) == expected


def test_host_without_privileged_gets_all_but_the_missing_capability() -> None:
    config = plan.host(CLUSTER, "host1", IMAGE, privileged=False).host_config
    assert (config["CapAdd"], config["CapDrop"]) == (["ALL"], ["SYS_RESOURCE"])
    assert config["MaskedPaths"] == config["ReadonlyPaths"] == []
    assert "Privileged" not in config


def test_a_host_has_the_folder_of_control_groups_that_its_systemd_boots_on() -> None:
    given = plan.host(CLUSTER, "host1", IMAGE, privileged=True, cgroups=Path("/sys/fs/cgroup/unified")).host_config
    assert "/sys/fs/cgroup/unified:/sys/fs/cgroup:rw" in given["Binds"]


def test_privileged_host_needs_nothing_else() -> None:
    config = plan.host(CLUSTER, "host1", IMAGE, privileged=True).host_config
    assert config["Privileged"] is True
    assert "CapAdd" not in config


def test_host_knows_etcd_and_its_own_address() -> None:
    planned = plan.host(CLUSTER, "host2", IMAGE, privileged=True, settings={"OVERLAYD_RESYNC_S": "1"})
    assert planned.environment == {
        "OVERLAYD_ETCD_ENDPOINTS": "https://198.18.9.2:2379",
        "OVERLAYD_ETCD_CAFILE": "/etc/overlayd/ca.pem",
        "OVERLAYD_ETCD_USERNAME": "overlayd",
        "OVERLAYD_ETCD_PASSWORD_FILE": "/etc/overlayd/etcd-password",
        "OVERLAYD_ETCD_PREFIX": "/coreos.com/network",
        "OVERLAYD_PUBLIC_IP": "198.18.9.12",
        "OVERLAYD_RESYNC_S": "1",
    }


def test_dockers_folders_are_on_volumes_of_the_hosts_own() -> None:
    volumes = [set(plan.host(CLUSTER, name, IMAGE, privileged=True).volumes) for name in CLUSTER.host_names]
    assert volumes[0].isdisjoint(volumes[1])
    assert set(plan.host(CLUSTER, "host1", IMAGE, privileged=True).volumes.values()) == {
        "/var/lib/docker",
        "/var/lib/containerd",
    }


def test_everything_carries_the_clusters_label() -> None:
    for planned in (plan.etcd(CLUSTER, IMAGE), plan.host(CLUSTER, "host1", IMAGE, privileged=True)):
        assert planned.labels[CLUSTER_LABEL] == "trial"
        assert from_label(planned.labels["org.overlayd.cluster.description"]) == CLUSTER


def test_a_host_is_given_the_hosts_login_and_no_other_secret() -> None:
    secrets = plan.secrets(CLUSTER)
    given = {
        bind.partition(":")[0] for bind in plan.host(CLUSTER, "host1", IMAGE, privileged=True).host_config["Binds"]
    }
    assert given & set(secrets) == {"overlayd-trial-overlayd"}
    etcds = {bind.partition(":")[0] for bind in plan.etcd(CLUSTER, IMAGE).host_config["Binds"]}
    assert etcds & set(secrets) == {"overlayd-trial-etcd-tls", "overlayd-trial-root"}
    # No other container mounts the volume with the CA's key.
    assert secrets["overlayd-trial-secrets"] == "/secrets"


def test_users_are_named_as_etcd_setup_names_them() -> None:
    assert tuple(rights.of(CLUSTER.prefix)) == (plan.HOST_USER, plan.ADMIN_USER)
    assert passwords.FILE == plan.PASSWORD_FILE


def test_an_open_etcd_has_no_secrets() -> None:
    cluster = Cluster(name="trial", base="some-base", hosts=1, open_etcd=True)
    assert cluster.etcd_endpoint.startswith("http://")
    assert plan.etcd(cluster, IMAGE).host_config["Binds"] == []
    environment = plan.host(cluster, "host1", IMAGE, privileged=True).environment
    assert set(environment) == {"OVERLAYD_ETCD_ENDPOINTS", "OVERLAYD_ETCD_PREFIX", "OVERLAYD_PUBLIC_IP"}
    assert plan.etcdctl(cluster) == ("etcdctl",)
