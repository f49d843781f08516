"""The rules on this host, whoever wrote them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from overlayd import marks, process
from overlayd.doctor.facts import Firewall, Firewalld, Zone
from overlayd.doctor.trace import parse
from overlayd.errors import CommandFailed, OverlaydError
from overlayd.firewalld.wanted import forward_policy
from overlayd.kernel import ipset
from overlayd.settings import Settings
from overlayd.status import Status

# iptables-nft's tables are judged as iptables', firewalld's by its own words, docker's by daemon.json.
_JUDGED = re.compile(r"(ip|ip6) (filter|nat|raw|mangle|security)|(ip|ip6|inet) (firewalld|docker-bridges|overlayd.*)")
_HOOKS = ("prerouting", "input", "forward")


def read_firewall(settings: Settings, status: Status | None) -> Firewall:
    """Everything that rules on packets here."""
    tables, problem = None, None
    try:
        tables = parse(process.run(["iptables-save"]))
    except CommandFailed as error:
        problem = error.message.splitlines()[-1].strip()
    ruleset = _nft_ruleset()
    return Firewall(
        kind=_kind(settings, status),
        tables=tables,
        sets=_sets(),
        problem=problem,
        other_kind=_other_kind(),
        closing=None if ruleset is None else closing_chains(ruleset),
        docker_nftables=any(_table(item) == "ip docker-bridges" for item in ruleset or ()),
        firewalld=_firewalld(),
    )


def closing_chains(ruleset: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Base chains of foreign nftables tables that may drop what passes: by policy, or by a rule in their table."""
    items = list(ruleset)
    dropping = {_table(item) for item in items if "rule" in item and _drops(item["rule"].get("expr", []))}
    found = []
    for item in items:
        chain, table = item.get("chain", {}), _table(item)
        if chain.get("hook") not in _HOOKS or chain.get("type") != "filter" or _JUDGED.fullmatch(table):
            continue
        if chain.get("policy") == "drop" or table in dropping:
            found.append(f"{table} {chain['name']}")
    return tuple(sorted(found))


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


def _sets() -> dict[str, frozenset[str]]:
    """The members of our own sets for IPv4, which our rules name."""
    found = {}
    for name in (marks.ours().peers(4), marks.ours().leased(4)):
        with contextlib.suppress(OverlaydError):
            members = ipset.read(name)
            if members is not None:
                found[name] = members
    return found


def _kind(settings: Settings, status: Status | None) -> str:
    if settings.firewall == "auto":
        return (status.firewall if status is not None else None) or "iptables"
    return settings.firewall


def _nft_ruleset() -> list[dict[str, Any]] | None:
    if shutil.which("nft") is None:
        # Rules may be there all the same; but where nobody has the tool, hardly anybody wrote them.
        return []
    try:
        found = json.loads(process.run(["nft", "-j", "list", "ruleset"]))["nftables"]
    except (CommandFailed, ValueError, KeyError):
        return None
    return [item for item in found if isinstance(item, dict)]


def _table(item: dict[str, Any]) -> str:
    for kind in ("table", "chain", "rule"):
        if kind in item:
            name = item[kind].get("name") if kind == "table" else item[kind].get("table")
            return f"{item[kind].get('family')} {name}"
    return ""


def _drops(expressions: Iterable[Any]) -> bool:
    return any(isinstance(one, dict) and ("drop" in one or "reject" in one) for one in expressions)


def _other_kind() -> int | None:
    """Rules of the kind of iptables that `iptables-save` does not show; reading makes no table (ip_tables_names)."""
    try:
        version = process.run(["iptables", "--version"])
        legacy_tables = Path("/proc/net/ip_tables_names").read_text().split()
    except (CommandFailed, OSError):
        return None
    if "nf_tables" not in version or not legacy_tables or shutil.which("iptables-legacy-save") is None:
        return 0
    try:
        return sum(line.startswith("-A ") for line in process.run(["iptables-legacy-save"]).splitlines())
    except CommandFailed:
        return None


def _firewalld() -> Firewalld | None:
    """firewalld, if it runs."""
    if shutil.which("firewall-cmd") is None:
        return None
    try:
        process.run(["firewall-cmd", "--state"], timeout_s=5)
        default = process.run(["firewall-cmd", "--get-default-zone"], timeout_s=5).strip()
        return Firewalld(
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
