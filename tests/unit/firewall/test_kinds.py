"""Which iptables programs are another kind, whose rules of ours are to be removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.firewall import iptables

NFT, LEGACY, OLD = "iptables v1.8.9 (nf_tables)", "iptables v1.8.9 (legacy)", "iptables v1.4.21"


@pytest.mark.parametrize(
    ("programs", "kinds"),
    [
        # One package's, and another file beside: a build of one's own, or a wrapper.
        ({"iptables": NFT, "iptables-nft": NFT, "iptables-legacy": LEGACY}, ["iptables", "iptables-legacy"]),
        ({"iptables": LEGACY, "iptables-nft": NFT, "iptables-legacy": LEGACY}, ["iptables", "iptables-nft"]),
        ({"iptables": OLD}, ["iptables"]),
        ({"iptables-legacy": LEGACY}, ["iptables-legacy"]),
        ({}, []),
    ],
)
def test_a_kind_is_what_a_program_says(
    programs: dict[str, str], kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in programs.items():
        for suffix in ("", "-save", "-restore"):
            path = tmp_path / f"{name}{suffix}"
            path.write_text(f"#!/bin/sh\necho '{said}'\n")
            path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert iptables.kinds(4) == kinds


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_a_link_says_by_its_program_what_it_is_and_nothing_is_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / f"xtables-{kind}-multi"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    program.chmod(0o755)
    for name in ("iptables", f"iptables-{kind}"):
        for suffix in ("", "-save", "-restore"):
            (tmp_path / f"{name}{suffix}").symlink_to(program.name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert iptables.kinds(4) == ["iptables"]
    assert not (tmp_path / "run").exists()
