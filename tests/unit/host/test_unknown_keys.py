"""Keys of the network config that no host reads are warned of, also where they come while it is served."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from overlayd.errors import StoreError
from overlayd.host.parts import DesiredHost
from overlayd.host.unknown_keys import UnknownKeys
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from tests.unit.host.values import CONFIG, DirectedBackend, context, lease

DESIRED = DesiredHost(lease=lease(1))
MISSPELT = parse_network_config('{"Network": "10.5.0.0/16", "SubnetLength": 24, "Backend": {"Type": "vxlan"}}')


def warnings(served: NetworkConfig, in_etcd: NetworkConfig | None) -> tuple[str, ...]:
    def network_config() -> NetworkConfig:
        if in_etcd is None:
            raise StoreError("etcd does not answer")
        return in_etcd

    registry = SimpleNamespace(network_config=network_config)
    return UnknownKeys(context(DirectedBackend(), config=served), cast("Any", registry)).sync(DESIRED).warnings


def test_a_key_that_was_added_since_is_warned_of() -> None:
    (warning,) = warnings(CONFIG, MISSPELT)
    assert "SubnetLength" in warning
    assert warnings(MISSPELT, CONFIG) == ()


def test_without_etcd_the_config_that_is_served_counts() -> None:
    assert warnings(MISSPELT, None) == warnings(CONFIG, MISSPELT)


def test_a_config_that_is_not_served_does_not_count() -> None:
    assert warnings(CONFIG, parse_network_config('{"Network": "10.6.0.0/16", "SubnetLength": 24}')) == ()
