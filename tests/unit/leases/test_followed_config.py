"""A network config that changes now and then is followed at once; one that changes all the time is not."""

from __future__ import annotations

import json

import pytest

from overlayd.errors import NetworkConfigError
from overlayd.leases.followed_config import FIRST_WAIT_S, FREE_CHANGES, FollowedConfig
from overlayd.leases.keys import Keys
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.store.protocol import KeyValue
from tests.testbed.clock import Clock


def config(vni: int) -> KeyValue:
    text = json.dumps({"Network": "10.42.0.0/16", "Backend": {"Type": "vxlan", "VNI": vni}})
    return KeyValue(key="/n/config", value=text.encode(), mod_revision=vni, lease_id=0)


def test_a_config_that_changes_now_and_then_is_followed_at_once() -> None:
    clock = Clock()
    followed_config = FollowedConfig(Keys("/n"), clock=clock)
    for change in range(100):
        assert followed_config.read(config(change)) == parse_network_config(config(change).value)
        clock.now += 3600 / (FREE_CHANGES - 1)
    assert followed_config.warning is None


def test_a_config_that_changes_a_hundred_times_a_second_is_not(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    followed_config = FollowedConfig(Keys("/n"), clock=clock)
    followed: list[NetworkConfig] = []
    for change in range(10_000):
        found = followed_config.read(config(change % 2 + 1))
        if not followed or followed[-1] != found:
            followed.append(found)
        clock.now += 0.01
    assert len(followed) == FREE_CHANGES + 1
    assert f"changed {FREE_CHANGES} times within an hour" in str(followed_config.warning)
    assert caplog.text.count("changes too often") == 1
    # Once it stands it is followed.
    other = config(7)
    assert followed_config.read(other) == followed[-1]
    clock.now += FIRST_WAIT_S
    assert followed_config.read(other) == parse_network_config(other.value)
    assert followed_config.warning is None
    # The next one has to stand for longer.
    followed_config.read(config(8))
    clock.now += FIRST_WAIT_S
    assert followed_config.read(config(8)) != parse_network_config(config(8).value)


def test_a_config_that_is_deleted_and_written_all_the_time_changes_nothing() -> None:
    followed_config = FollowedConfig(Keys("/n"), clock=Clock())
    for _change in range(1000):
        assert followed_config.read(config(1)) == parse_network_config(config(1).value)
        with pytest.raises(NetworkConfigError):
            followed_config.read(None)
    assert followed_config.warning is None
