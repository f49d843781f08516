"""compose/compose.yaml agrees with the cluster's description: addresses, network config, the privileges of a host."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.testbed.cluster import plan
from tests.testbed.cluster.description import Cluster

FILE = Path(__file__).parents[3] / "compose" / "compose.yaml"
HOST_FILE = FILE.with_name("host.yaml")
# `${NAME:-default}`, as Compose reads it.
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
CLUSTER = Cluster(name="compose", base="debian12-rpm", underlay=IPv4Network("198.18.40.0/24"))


def _text(file: Path = FILE) -> str:
    return _VARIABLE.sub(lambda found: found[2], file.read_text())


def test_addresses_are_the_descriptions() -> None:
    text = _text()
    assert CLUSTER.etcd_endpoint in text
    given = re.findall(r'ipv4_address: "([^"]+)"', text)
    assert given == [str(CLUSTER.etcd_address), *(str(CLUSTER.address(name)) for name in CLUSTER.host_names)]
    assert f'subnet: "{CLUSTER.underlay}"' in text


@pytest.mark.parametrize("name", ["compose.yaml", "tls.yaml", "host.yaml"])
def test_no_version_is_given_as_compose_2_warns_of_any(name: str) -> None:
    assert not re.search(r"^version:", FILE.with_name(name).read_text(), re.MULTILINE)


def test_network_config_is_the_descriptions() -> None:
    assert f"CONFIG: '{CLUSTER.network_config}'" in _text()
    assert f"put {CLUSTER.prefix}/config " in _text()
    environment = plan.host(CLUSTER, "host1", "", privileged=False).environment
    for name in ("OVERLAYD_ETCD_CAFILE", "OVERLAYD_ETCD_USERNAME", "OVERLAYD_ETCD_PASSWORD_FILE"):
        assert f"{name}: {environment[name]}\n" in _text()


def test_hosts_are_granted_what_the_cluster_grants() -> None:
    text, config = _text(HOST_FILE), plan.host(CLUSTER, "host1", "", privileged=False).host_config
    assert f"cap_add: [{', '.join(config['CapAdd'])}]" in text
    assert f"cap_drop: [{', '.join(config['CapDrop'])}]" in text
    assert [option.replace("=", ":") for option in config["SecurityOpt"]] == re.findall(r'"(\w+:unconfined)"', text)
    assert f'device_cgroup_rules: ["{config["DeviceCgroupRules"][0]}"]' in text
    assert f"tmpfs: [{', '.join(config['Tmpfs'])}]" in text


def test_images_are_the_descriptions() -> None:
    found = [
        set(re.findall(r'image: "([^"]+)"', _text(file))) for file in (FILE, FILE.with_name("tls.yaml"), HOST_FILE)
    ]
    assert found == [{CLUSTER.image("etcd")}, {CLUSTER.image("etcd")}, {CLUSTER.image("host")}]


def test_the_cluster_with_tls_has_certificates_for_the_addresses_of_its_etcds() -> None:
    text = _text(FILE.with_name("tls.yaml"))
    given = re.findall(r'ipv4_address: "([^"]+)"', text)
    etcds, hosts = given[:3], given[3:]
    assert hosts == [f"198.18.42.{number}" for number in (11, 12, 13)]
    joined = re.sub(r"\\\n *", "", text)
    for number, address in enumerate(etcds, 1):
        assert f'- "etcd{number}=IP:{address}"\n' in joined
    members = [f"etcd{number}=https://{address}:2380" for number, address in enumerate(etcds, 1)]
    assert f'ETCD_INITIAL_CLUSTER: "{",".join(members)}"' in joined
    assert f'ETCDCTL_ENDPOINTS: &endpoints "{",".join(f"https://{address}:2379" for address in etcds)}"' in joined


def _mounts(name: str) -> dict[str, set[str]]:
    """By service: the named volumes that it mounts."""
    found: dict[str, set[str]] = {}
    service = ""
    for line in (
        FILE.with_name(name).read_text().partition("\nservices:\n")[2].partition("\nvolumes:\n")[0].splitlines()
    ):
        if heading := re.fullmatch(r"  ([\w-]+):", line):
            service = heading[1]
        elif "volumes:" in line or re.match(r"      - [\w-]+:/", line):
            found.setdefault(service, set()).update(re.findall(r"[\[\s\"]([\w-]+):/", line))
    return found


@pytest.mark.parametrize("name", ["compose.yaml", "tls.yaml"])
def test_a_secret_is_mounted_only_by_services_that_need_it(name: str) -> None:
    found = _mounts(name)
    who = {
        volume: {service for service, mounted in found.items() if volume in mounted}
        for volume in set().union(*found.values())
    }
    makers = {"etcd-setup", "certificates"}
    # The CA's key.
    assert who["secrets"] in [{maker} for maker in makers]
    for host in ("host1", "host2", "host3"):
        secrets = {volume for volume in found[host] if not volume.endswith(("docker", "containerd"))}
        assert secrets == {"hosts"} | ({f"{host}-tls"} if name == "tls.yaml" else set())
        if name == "tls.yaml":
            assert who[f"{host}-tls"] - makers == {host}
    assert all(service.startswith("etcd") for service in who["root"] - makers)
    assert who["admin"] - makers == {"network-config"}
    for etcd in ("etcd1", "etcd2", "etcd3") if name == "tls.yaml" else ("etcd",):
        assert who[f"{etcd}-tls"] - makers == {etcd}
