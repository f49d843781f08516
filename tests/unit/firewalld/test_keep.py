"""How an ipset of firewalld's is brought to what is desired: in few calls, as firewalld takes 50 ms for each."""

from __future__ import annotations

from typing import Any, cast

import pytest

from overlayd.firewalld.bus import Bus
from overlayd.firewalld.keep import SINGLES_AT_MOST, _ipset


class Recorded:
    """Answers as firewalld's ipset interface does, and keeps what was called."""

    def __init__(self, entries: set[str]) -> None:
        self.entries = entries
        self.calls: list[str] = []

    def call(self, _interface: str, method: str, _signature: str, _name: str, *values: Any) -> Any:
        """One method of org.fedoraproject.FirewallD1.ipset (firewalld.dbus(5))."""
        self.calls.append(method)
        match method:
            case "setEntries":
                self.entries = set(values[0])
            case "addEntry":
                self.entries.add(values[0])
            case "removeEntry":
                self.entries.remove(values[0])
        return sorted(self.entries)


def addresses(*numbers: int) -> set[str]:
    return {f"198.18.{number >> 8}.{number & 255}" for number in numbers}


@pytest.mark.parametrize(
    ("before", "after", "calls"),
    [
        (addresses(1, 2), addresses(1, 2), {}),
        (addresses(1, 2), addresses(2, 3), {"addEntry": 1, "removeEntry": 1}),
        (set(), addresses(*range(9)), {"setEntries": 1}),
        (addresses(*range(9)), set(), {"setEntries": 1}),
        (addresses(1), addresses(*range(SINGLES_AT_MOST + 1)), {"addEntry": SINGLES_AT_MOST}),
        (addresses(1), addresses(*range(SINGLES_AT_MOST + 2)), {"setEntries": 1}),
        (addresses(*range(5000)), addresses(*range(1000, 6000)), {"setEntries": 1}),
    ],
    ids=["as it is", "two", "none there", "none left", "few", "many", "thousands"],
)
def test_few_differences_are_written_one_by_one_and_many_at_once(
    before: set[str], after: set[str], calls: dict[str, int]
) -> None:
    bus = Recorded(set(before))
    assert _ipset(cast("Bus", bus), "overlayd-peers", frozenset(after)) == (before != after)
    assert bus.entries == after
    assert {name: bus.calls.count(name) for name in bus.calls if name != "getEntries"} == calls
