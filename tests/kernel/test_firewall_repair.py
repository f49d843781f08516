"""Flushed rules are restored at once, not only by the timer, where the kernel notifies of rule changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.netns.forwarding import use_iptables
from tests.testbed.netns.lab import Host, laboratory
from tests.testbed.polling import eventually

# Much longer than the repair takes, much shorter than the timer's interval.
REPAIRED_S = 10.0
RESYNC_S = 600


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with iptables-nft whose timer fires only every ten minutes."""
    with pytest.MonkeyPatch.context() as patch:
        folder: Path = tmp_path_factory.mktemp(request.param)
        (folder / "bin").mkdir()
        use_iptables("nft", folder / "bin", patch)
        with laboratory(folder, {"Type": "vxlan"}) as lab:
            made = lab.host("a", start=False)
            made.settings = {"resync-s": RESYNC_S, "firewall": request.param}
            made.start()
            yield made


@pytest.mark.parametrize(
    "flush",
    [
        ["iptables", "-F"],
        ["iptables", "-t", "nat", "-F"],
        ["iptables", "-t", "raw", "-I", "PREROUTING", "-d", "10.5.0.2", "!", "-i", "docker0", "-j", "DROP"],
        ["nft", "flush", "ruleset"],
    ],
    ids=["filter", "nat", "docker-in-front", "everything"],
)
def test_flushed_rules_are_back_at_once(host: Host, flush: list[str]) -> None:
    assert host.status()["firewall"] == host.settings["firewall"]
    eventually("a first look", lambda: written(host))
    before, times = ours(host), written(host)
    if "nat" in flush and host.settings["firewall"] == "nftables":
        flush = ["nft", "flush", "chain", "ip", "overlayd", "postrouting"]
    host.run(*flush)
    eventually("the rules are back", lambda: written(host) > times and ours(host) == before, timeout_s=REPAIRED_S)


def written(host: Host) -> int:
    """How often the daemon wrote rules so far."""
    return host.log.read_text().count("firewall rules written")


def ours(host: Host) -> list[str]:
    """All our rules in order, and the first rule of PREROUTING, where ours has to be first."""
    lines = host.run("iptables-save").splitlines() + host.run("nft", "-s", "list", "ruleset").splitlines()
    first = next((line for line in lines if line.startswith("-A PREROUTING")), "nothing")
    return [f"first: {first}", *(line for line in lines if "overlayd" in line)]
