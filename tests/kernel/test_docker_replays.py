"""The replayed rules of Docker (docker_rules/) are those that a real Docker writes, if a real one is available here.

No Debian suite has the releases of the other replays.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.netns import namespaces
from tests.testbed.netns.docker_releases import RELEASES, load
from tests.testbed.netns.docker_site import ALONE, DockerSite

# For each real release, the replay that is compared with it.
REPLAYS = {"20.10": "20.10", "26.1": "27", "28.5": "28.2"}
# Known differences: lines that only the replay has, and lines that only the real release has. The replay does not set
# FORWARD's policy, so that tests show what the drops alone do.
DIFFERENT: dict[tuple[str, int], tuple[list[str], list[str]]] = {
    ("28.5", 4): (["*filter -A DOCKER-USER -j RETURN"], ["*filter :FORWARD DROP"]),
    ("28.5", 6): (
        [
            "*filter -A DOCKER-USER -j RETURN",
            f"*nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination [{ALONE[6][2]}]:80",
        ],
        [
            "*filter :FORWARD DROP",
            "*nat -A DOCKER ! -s fe80::/10 ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT"
            f" --to-destination [{ALONE[6][2]}]:80",
        ],
    ),
}


@pytest.fixture
def empty() -> Iterator[str]:
    """A namespace without rules."""
    name = namespaces.unique("replay")
    namespaces.make(name)
    try:
        yield name
    finally:
        namespaces.remove(name)


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_replayed_is_what_docker_writes(site: DockerSite, version: int, empty: str) -> None:
    real = rules(site.alone[version])
    if version == 6 and not site.release.ipv6:
        # Only release 27 is replayed with IPv6 rules, and no suite has 27.
        assert real == []
        return
    release = next(release for release in RELEASES if release.name == REPLAYS[site.release.name])
    load(release, empty, ALONE[version], ALONE[version][2], options={})
    replayed = rules(namespaces.run(empty, [f"{'ip' if version == 4 else 'ip6'}tables-save"]))
    only_replayed, only_real = DIFFERENT.get((site.release.name, version), ([], []))
    assert ([one for one in replayed if one not in real], [one for one in real if one not in replayed]) == (
        only_replayed,
        only_real,
    )
    assert [one for one in replayed if one in real] == [one for one in real if one in replayed]


def rules(saved: str) -> list[str]:
    """By table: user-defined chains, policies other than ACCEPT, and rules in their order."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith(":"):
            name, policy, _ = line.split()
            if policy != "ACCEPT":
                found.setdefault(table, []).append(f"{name} {policy}")
        elif line.startswith("-A"):
            found.setdefault(table, []).append(line)
    # The order between rules of different chains does not matter.
    return [f"{table} {line}" for table in sorted(found) for line in sorted(found[table], key=_place)]


def _place(line: str) -> tuple[bool, str]:
    is_rule = line.startswith("-A")
    return is_rule, line.split()[1] if is_rule else line
