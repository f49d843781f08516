"""The rules on this host, whoever wrote them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from overlayd.doctor.facts import FirewalldFacts, FirewallFacts, Zone
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.firewalld.desired import forward_policy
from overlayd.kernel import ipset
from overlayd.lib import marks, process
from overlayd.monitoring.status_file import Status
from overlayd.ruleset import survey
from overlayd.ruleset.packet_path import IptablesRules
from overlayd.settings import Settings


def read_firewall(settings: Settings, status: Status | None) -> FirewallFacts:
    """Everything that rules on packets here."""
    kinds = survey.read_iptables()
    return FirewallFacts(
        kind=_kind(settings, status),
        kinds=kinds,
        sets=_sets(kinds),
        chains=survey.read_nftables(kinds),
        firewalld=_firewalld(),
    )


def parse_zones(text: str) -> tuple[Zone, ...]:
    """What `firewall-cmd --list-all-zones` says."""
    zones: list[Zone] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        heading, *lines = block.splitlines() or [""]
        if not heading.strip():
            continue
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        zones.append(
            Zone(
                name=heading.split()[0],
                target=values.get("target", "default"),
                interfaces=frozenset(values.get("interfaces", "").split()),
                sources=frozenset(values.get("sources", "").split()),
                ports=frozenset(values.get("ports", "").split()),
                protocols=frozenset(values.get("protocols", "").split()),
            )
        )
    return tuple(zones)


def _sets(kinds: Iterable[IptablesRules]) -> dict[str, frozenset[str]]:
    """The members of the sets that rules name, as far as they are of addresses alone."""
    words = [
        rule.split("--match-set ")[1].split()
        for kind in kinds
        for chains in (kind.tables or {}).values()
        for chain in chains.values()
        for rule in chain.rules
        if "--match-set " in rule
    ]
    found = {}
    for name in {name for name, end, *_rest in words if end in ("src", "dst")}:
        with contextlib.suppress(OverlaydError):
            members = ipset.read(name)
            # What is not of addresses looks empty here; ours are.
            if members or (members is not None and name in marks.ours().sets):
                found[name] = members
    return found


def _kind(settings: Settings, status: Status | None) -> str:
    if settings.firewall == "auto":
        return (status.firewall if status is not None else None) or "iptables"
    return settings.firewall


def _firewalld() -> FirewalldFacts | None:
    """firewalld, if it runs."""
    if shutil.which("firewall-cmd") is None:
        return None
    try:
        process.run(["firewall-cmd", "--state"], timeout_s=5)
        default = process.run(["firewall-cmd", "--get-default-zone"], timeout_s=5).strip()
        return FirewalldFacts(
            default_zone=default,
            zones=parse_zones(process.run(["firewall-cmd", "--list-all-zones"], timeout_s=10)),
            forwarded=_forwarded(),
            shipped=Path(f"/usr/lib/firewalld/policies/{forward_policy()}.xml").exists(),
        )
    except CommandFailed:
        return None


def _forwarded() -> tuple[str, ...] | None:
    try:
        return tuple(
            process.run(["firewall-cmd", f"--policy={forward_policy()}", "--list-rich-rules"], timeout_s=5).splitlines()
        )
    except CommandFailed:
        return None
