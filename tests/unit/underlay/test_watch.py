"""The underlay while the daemon runs: an interface that is configured anew has no address for a moment."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from types import SimpleNamespace
from typing import cast

import pytest

from overlayd.errors import ConfigError
from overlayd.kernel import interfaces
from overlayd.kernel.interfaces import Interface
from overlayd.settings import Settings
from overlayd.underlay import watch
from overlayd.underlay.choose import Underlay, UnderlayEndpoint
from overlayd.underlay.watch import SETTLE_S, UnderlayWatch

ETH0 = Interface(name="eth0", index=2, mtu_bytes=1500, up=True, addresses=(IPv4Interface("198.18.1.1/24"),))
BARE = replace(ETH0, addresses=())
OTHER = Interface(name="eth1", index=3, mtu_bytes=1500, up=True, addresses=(IPv4Interface("198.18.9.1/24"),))


def underlay(interface: Interface) -> Underlay:
    address = IPv4Address(interface.addresses[0].ip)
    on_link = (interface.addresses[0].network,)
    return Underlay(
        ifname=interface.name,
        ifindex=interface.index,
        mtu_bytes=interface.mtu_bytes,
        reason="the default route",
        v4=UnderlayEndpoint(address=address, public_ip=address, on_link=on_link),
    )


class Stage:
    """A watch; what `read_interfaces` finds, before each pause and after it; and the pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *there: list[Interface]) -> None:
        self.there = list(there)
        self.pauses: list[float] = []
        self.watch = UnderlayWatch(cast("Settings", SimpleNamespace()), underlay(ETH0), self.pause)
        monkeypatch.setattr(interfaces, "read_interfaces", lambda: self.there[0])
        monkeypatch.setattr(watch, "choose_underlay", self.choose)

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.there = self.there[1:] or self.there

    def choose(self, _settings: Settings) -> Underlay:
        for one in self.there[0]:
            if one.addresses:
                return underlay(one)
        raise ConfigError("no interface has an address")


def test_an_address_that_comes_back_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [BARE, OTHER], [ETH0, OTHER])
    assert stage.watch.look([4]) == underlay(ETH0)
    assert (stage.pauses, stage.watch.problem) == ([SETTLE_S], None)


def test_another_interface_is_taken_when_the_first_stays_without(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [BARE, OTHER], [BARE, OTHER])
    assert stage.watch.look([4]) == underlay(OTHER)
    assert stage.pauses == [SETTLE_S]


def test_while_there_is_none_nothing_is_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [BARE])
    for _ in range(3):
        assert stage.watch.look([4]) == underlay(ETH0)
        assert stage.watch.problem == "no interface has an address"
    assert stage.pauses == [SETTLE_S]
    stage.there = [[ETH0]]
    assert (stage.watch.look([4]), stage.watch.problem) == (underlay(ETH0), None)
    assert stage.pauses == [SETTLE_S]


def test_another_mtu_or_name_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [replace(ETH0, name="uplink", mtu_bytes=1400)])
    found = stage.watch.look([4])
    assert (found.ifname, found.mtu_bytes, stage.pauses) == ("uplink", 1400, [])
