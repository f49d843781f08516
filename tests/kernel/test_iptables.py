"""Rules in the real iptables, of both kinds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlayd import firewall
from tests.kernel import namespaces
from tests.kernel.namespaces import inside

WANTED = firewall.desired(
    overlays=[firewall.Overlay(network=IPv4Network("10.5.0.0/16"), subnet=IPv4Network("10.5.1.0/24"))],
    devices=("overlay.1", "eth0"),
    masquerade=True,
)


@pytest.fixture(params=["nft", "legacy"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace, on a machine whose `iptables` is of that kind."""
    for command in ("iptables", "iptables-save", "iptables-restore"):
        found = shutil.which(command.replace("iptables", f"iptables-{request.param}", 1))
        if found is None:
            pytest.skip(f"this machine has no iptables-{request.param}")
        (tmp_path / command).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    name = namespaces.unique(f"fw{request.param}")
    namespaces.make(name)
    yield name
    namespaces.remove(name)


def sync(host: str) -> bool:
    """Sync in the namespace."""
    return inside(host, lambda: firewall.Firewall("iptables").sync(WANTED).written)


def test_what_is_written_is_read_back_as_wanted(host: str) -> None:
    assert sync(host)
    assert not sync(host)


def test_order_is_put_back(host: str) -> None:
    namespaces.run(host, ["iptables", "-N", "DOCKER-USER"])
    namespaces.run(host, ["iptables", "-A", "DOCKER-USER", "-j", "RETURN"])
    sync(host)
    before = rules(host)
    namespaces.run(
        host, ["iptables", "-t", "raw", "-I", "PREROUTING", "-d", "10.5.1.2", "!", "-i", "docker0", "-j", "DROP"]
    )
    namespaces.run(host, ["iptables", "-I", "DOCKER-USER", "-j", "RETURN"])
    assert sync(host)
    assert not sync(host)
    after = rules(host)
    raw = [line for line in after if line.startswith("-A PREROUTING")]
    assert raw[0].endswith("OVERLAYD-PREROUTING")
    assert raw[1].endswith("DROP")
    user = [line.split()[-1] for line in after if line.startswith("-A DOCKER-USER")]
    assert user == ["OVERLAYD-DOCKER", "RETURN", "RETURN"]
    assert len(after) == len(before) + 2


def test_cleanup_takes_all_of_ours_and_nothing_else(host: str) -> None:
    namespaces.run(host, ["iptables", "-A", "FORWARD", "-m", "comment", "--comment", "not overlayd", "-j", "ACCEPT"])
    before = rules(host)
    sync(host)
    assert list(inside(host, lambda: list(firewall.cleanup())))
    assert rules(host) == before
    assert list(inside(host, lambda: list(firewall.cleanup()))) == []


def rules(host: str) -> list[str]:
    """Every rule and chain of one's own making."""
    lines = namespaces.run(host, ["iptables-save"]).splitlines()
    return [line for line in lines if line.startswith("-A") or (line.startswith(":") and " - " in line)]
