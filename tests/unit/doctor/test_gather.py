"""What is read from other programs' words, and from frames on the wire."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from overlayd.doctor.gather import underlay
from overlayd.doctor.gather.firewall import parse_zones
from overlayd.kernel.arp import claimant, probe

FIREWALL_CMD = """\
public (active)
  target: default
  icmp-block-inversion: no
  interfaces: eth0 eth1
  sources: 
  services: dhcpv6-client ssh
  ports: 8472/udp 9000-9010/tcp
  protocols: ipip
  rich rules: 
\trule family="ipv4" source address="10.0.0.1" drop

trusted
  target: ACCEPT
  interfaces: 
  sources: 10.5.0.0/16
  ports: 
"""  # noqa: W291  (as firewall-cmd prints it)


def test_the_zones_of_firewalld() -> None:
    public, trusted = parse_zones(FIREWALL_CMD)
    assert (public.name, public.target, public.interfaces) == ("public", "default", frozenset({"eth0", "eth1"}))
    assert (public.ports, public.protocols, public.sources) == (
        frozenset({"8472/udp", "9000-9010/tcp"}),
        frozenset({"ipip"}),
        frozenset(),
    )
    assert (trusted.name, trusted.target, trusted.sources) == ("trusted", "ACCEPT", frozenset({"10.5.0.0/16"}))
    assert parse_zones("") == ()


ADDRESS, OURS, THEIRS = IPv4Address("198.18.1.1"), bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def test_a_probe_claims_nothing_and_is_not_its_own_answer() -> None:
    frame = probe(ADDRESS, OURS)
    assert len(frame) == 42
    assert frame[28:32] == bytes(4)
    assert claimant(frame, ADDRESS, OURS) is None


def test_an_answer_or_another_probe_for_the_address_is_a_claim() -> None:
    another = probe(ADDRESS, THEIRS)
    assert claimant(another, ADDRESS, OURS) == "02:00:00:00:00:02"
    answer = another[:20] + b"\x00\x02" + THEIRS + ADDRESS.packed + OURS + bytes(4)
    assert claimant(answer, ADDRESS, OURS) == "02:00:00:00:00:02"
    assert claimant(answer, ADDRESS + 1, OURS) is None
    assert claimant(answer[:30], ADDRESS, OURS) is None
    assert claimant(probe(ADDRESS + 1, THEIRS), ADDRESS, OURS) is None


def test_a_manager_that_does_not_answer_is_told_from_one_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(underlay, "_ANSWERS_S", 0.5)
    hangs, fails = tmp_path / "networkctl", tmp_path / "nmcli"
    hangs.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    # As nmcli does where NetworkManager is installed and does not run.
    fails.write_text("#!/bin/sh\nexit 8\n")
    for program in (hangs, fails):
        program.chmod(0o755)
    assert underlay.managers_of(("overlay.1",)) == ({}, ("networkd",))
    fails.write_text("#!/bin/sh\nprintf 'overlay.1:connected\\neth0:connected\\noverlay-wg:unmanaged\\n'\n")
    assert underlay.managers_of(("overlay.1", "overlay-wg")) == ({"overlay.1": "NetworkManager"}, ("networkd",))
