"""compose/compose.yaml says what the description says: addresses, network config, what a host is granted."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.cluster import plan
from tests.cluster.description import Cluster

FILE = Path(__file__).parents[3] / "compose" / "compose.yaml"
# `${NAME:-default}`, as Compose reads it.
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
CLUSTER = Cluster(name="compose", base="debian12-rpm", underlay=IPv4Network("198.18.40.0/24"))


def _text() -> str:
    return _VARIABLE.sub(lambda found: found[2], FILE.read_text())


def test_addresses_are_the_descriptions() -> None:
    text = _text()
    assert CLUSTER.etcd_endpoint in text
    given = re.findall(r'ipv4_address: "([^"]+)"', text)
    assert given == [str(CLUSTER.etcd_address), *(str(CLUSTER.address(name)) for name in CLUSTER.host_names)]
    assert f'subnet: "{CLUSTER.underlay}"' in text


@pytest.mark.parametrize("name", ["compose.yaml", "tls.yaml"])
def test_no_version_is_given_as_compose_2_warns_of_any(name: str) -> None:
    assert not re.search(r"^version:", FILE.with_name(name).read_text(), re.MULTILINE)


def test_network_config_is_the_descriptions() -> None:
    assert f"CONFIG: '{CLUSTER.network_config}'" in _text()
    assert f"put {CLUSTER.prefix}/config " in _text()


def test_hosts_are_granted_what_the_cluster_grants() -> None:
    text, config = _text(), plan.host(CLUSTER, "host1", "", privileged=False).host_config
    assert f"cap_add: [{', '.join(config['CapAdd'])}]" in text
    assert f"cap_drop: [{', '.join(config['CapDrop'])}]" in text
    assert [option.replace("=", ":") for option in config["SecurityOpt"]] == re.findall(r'"(\w+:unconfined)"', text)
    assert f'device_cgroup_rules: ["{config["DeviceCgroupRules"][0]}"]' in text
    assert f"tmpfs: [{', '.join(config['Tmpfs'])}]" in text


def test_images_are_the_descriptions() -> None:
    assert set(re.findall(r'image: "([^"]+)"', _text())) == {CLUSTER.image("host"), CLUSTER.image("etcd")}


def test_the_cluster_with_tls_has_certificates_for_the_addresses_of_its_etcds() -> None:
    text = _VARIABLE.sub(lambda found: found[2], FILE.with_name("tls.yaml").read_text())
    given = re.findall(r'ipv4_address: "([^"]+)"', text)
    etcds, hosts = given[:3], given[3:]
    assert hosts == [f"198.18.42.{number}" for number in (11, 12, 13)]
    joined = re.sub(r"\\\n *", "", text)
    assert f'"etcd={",".join(f"IP:{address}" for address in etcds)}"' in joined
    members = [f"etcd{number}=https://{address}:2380" for number, address in enumerate(etcds, 1)]
    assert f'ETCD_INITIAL_CLUSTER: "{",".join(members)}"' in joined
    assert f'ETCDCTL_ENDPOINTS: &endpoints "{",".join(f"https://{address}:2379" for address in etcds)}"' in joined
