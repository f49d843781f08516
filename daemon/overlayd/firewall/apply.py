"""Chooses iptables or nftables, writes the desired rules where the kernel's differ, and removes all of them again.

Whether they differ is decided in iptables.py with diff.py, and for nftables in `table.matches`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Self, TypeVar

from overlayd.errors import CommandFailed, KernelRefused, OverlaydError, UnsupportedError
from overlayd.firewall import iptables, nftables
from overlayd.firewall.chains import Ruleset, ruleset, without_sets
from overlayd.firewall.rules import VERSIONS, DesiredRules
from overlayd.firewall.table import NFT_LEASED, NFT_PEERS, table, without_nat
from overlayd.kernel import ipset, policies
from overlayd.lib.addresses import IPAddress, IPNetwork, ip_address, ip_network
from overlayd.lib.log import logger
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass

log = logger("firewall")

T = TypeVar("T")
R = TypeVar("R")

# Rules are read this often, in seconds, also when the kernel has told of no change; and with them their counters.
REST_S = 30.0
_PACKAGES = "install the package iptables (from EL 9: iptables-nft) or nftables, or set firewall to none"
_COMMANDS = {"iptables": "iptables-restore", "nftables": "nft"}


@dataclass(frozen=True, kw_only=True)
class FirewallReport:
    """The result of one `sync`.

    `backend` is iptables, nftables, or None where nothing keeps the rules. `written`: a difference was found, and
    written. `problems` keep packets from passing. `limits` do not: they name what was left out as this kernel lacks it.
    """

    backend: str | None
    written: bool = False
    problems: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What decides whether another look at the rules could find anything new."""

    desired: DesiredRules
    generation: int
    sets: tuple[bytes | None, ...]

    @classmethod
    def now(cls, desired: DesiredRules) -> Self | None:
        """None where this kernel does not tell of changes: legacy iptables is in use, or there is no ipset."""
        generation = policies.nftables_generation()
        if generation is None or policies.has_legacy_iptables():
            return None
        try:
            sets = tuple(ipset.state(name) for name in ours().sets)
        except OverlaydError:
            return None
        return cls(desired=desired, generation=generation, sets=sets)


class Firewall:
    """Keeps this host's rules as desired, for both IP versions. Called in one thread."""

    def __init__(
        self, choice: str, *, prefer_nftables: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`choice` is auto, iptables, nftables or none. auto takes what is installed, nftables first if preferred.

        `clock` is in seconds.
        """
        self._choice = choice
        self._prefer_nftables = prefer_nftables
        self._stale_removed = False
        self._logged_limits: set[str] = set()
        self._clock = clock
        # What was desired and there when nothing had to be written, when that was, and the report.
        self._rest: tuple[_Seen, float, FirewallReport] | None = None

    def sync(self, desired: DesiredRules) -> FirewallReport:
        """Write the desired rules where the kernel's differ. Never raises; an unchanged state writes nothing.

        The first successful call also removes what another `choice`, or an IP version without overlay, left behind.
        While the kernel tells of no change, rules are read again every REST_S only.
        """
        # Before anything is read: what changes meanwhile is seen by the next call.
        seen, now = _Seen.now(desired), self._clock()
        if self._rest is not None and seen is not None and self._rest[0] == seen and now - self._rest[1] < REST_S:
            return self._rest[2]
        report = self._write(desired)
        rests = seen is not None and self._stale_removed and not report.written and not report.problems
        self._rest = (seen, now, report) if rests and seen is not None else None
        return report

    def _write(self, desired: DesiredRules) -> FirewallReport:
        run = _Sync(desired)
        backend = self._backend(run)
        if backend is not None:
            run.write(backend)
        if not self._stale_removed and not run.problems:
            # Only once the new rules are written: until then packets pass by the old ones.
            self._stale_removed = run.remove_stale(backend)
        for limit in set(run.limits) - self._logged_limits:
            log.warning("a part of the firewall rules is left out", reason=limit)
        self._logged_limits = set(run.limits)
        return FirewallReport(
            backend=backend, written=run.written, problems=tuple(run.problems), limits=tuple(run.limits)
        )

    def members(self) -> tuple[frozenset[IPAddress], frozenset[IPNetwork]]:
        """Peers' addresses and subnets in the sets that the last run left in the kernel. Never raises."""
        found: dict[str, set[str]] = {NFT_PEERS: set(), NFT_LEASED: set()}
        for version in VERSIONS:
            for name, kind in ((ours().peers(version), NFT_PEERS), (ours().leased(version), NFT_LEASED)):
                with contextlib.suppress(OverlaydError):
                    found[kind] |= ipset.read(name) or set()
            with contextlib.suppress(OverlaydError):
                sets = nftables.members(version) if nftables.installed() else {}
                for kind in found:
                    found[kind] |= sets.get(kind, set())
        return frozenset(_read(ip_address, found[NFT_PEERS])), frozenset(_read(ip_network, found[NFT_LEASED]))

    def close_forwarding(self, version: int) -> str | None:
        """Set FORWARD's policy to DROP, as dockerd does when it turns forwarding on. Call it before you turn it on.

        Docker starts later, finds forwarding on and leaves the policy alone: the host would route for everybody.
        Returns None, or a sentence why it was not done. Never raises.
        """
        command = iptables.COMMANDS[version]
        if self._choice == "none" or not iptables.installed(command):
            why = "firewall is none" if self._choice == "none" else f"there is no {command}"
            return f"overlayd turned IPv{version} forwarding on, and nothing keeps other networks' packets back: {why}"
        try:
            iptables.close_forward(command)
        except CommandFailed as error:
            return f"overlayd turned IPv{version} forwarding on, and other networks' packets pass: {error.message}"
        log.info("FORWARD drops what no rule lets through, as forwarding was off before", command=command)
        return None

    def _backend(self, run: _Sync) -> str | None:
        installed = {"iptables": iptables.installed("iptables"), "nftables": nftables.installed()}
        if self._choice == "none":
            return None
        if self._choice == "auto":
            preferred = ("nftables", "iptables") if self._prefer_nftables else ("iptables", "nftables")
            found = next((name for name in preferred if installed[name]), None)
            if found is None:
                run.problems.append(f"there is neither iptables-restore nor nft to write firewall rules: {_PACKAGES}")
            return found
        if installed[self._choice]:
            return self._choice
        run.problems.append(f"firewall is {self._choice}, and there is no {_COMMANDS[self._choice]}: {_PACKAGES}")
        return None


def _read(kind: Callable[[str], T], texts: Iterable[str]) -> Iterator[T]:
    for text in texts:
        # Elements that somebody else added may have another form.
        with contextlib.suppress(ValueError):
            yield kind(text)


def cleanup() -> Iterator[str]:
    """Remove all rules, tables and sets of ours, of both IP versions and of every backend. Yields what was removed.

    Goes on after a failure, and raises CommandFailed at the end.
    """
    removals: list[Callable[[], Iterator[str]]] = [nftables.remove] if nftables.installed() else []
    for version in VERSIONS:
        removals += [partial(iptables.remove, command) for command in iptables.kinds(version)]
    failures = []
    for removal in removals:
        try:
            yield from removal()
        except OverlaydError as error:
            failures.append(error.message)
    for name in ours().sets:
        try:
            if ipset.remove(name):
                yield f"set {name}"
        except KernelRefused as error:
            failures.append(error.message)
    if failures:
        raise CommandFailed("\n".join(failures))


class _Sync:
    """One `sync`: its problems and limits, and whether it wrote anything."""

    def __init__(self, desired: DesiredRules) -> None:
        self._desired = desired
        self._versions = [version for version in VERSIONS if desired.overlay(version) is not None]
        self._sets: set[str] = set()
        self.written = False
        self.problems: list[str] = []
        self.limits: list[str] = []

    def write(self, backend: str) -> None:
        """Write all rules that differ, one IP version after the other."""
        for version in self._versions:
            command = iptables.COMMANDS[version]
            if backend == "nftables":
                before = len(self.problems)
                self._nftables(version)
                # An accept in our nftables table saves no packet from a drop of iptables, so the accepts are rules of
                # iptables. They are not written where the rules against strangers could not be.
                if iptables.installed(command) and len(self.problems) == before:
                    self._iptables(version, accepts_only=True)
            elif iptables.installed(command):
                self._iptables(version, accepts_only=False)
            else:
                self.problems.append(f"there is no {command}-restore to write IPv{version} rules: {_PACKAGES}")

    def remove_stale(self, backend: str | None) -> bool:
        """Remove rules of ours by another backend or variant of iptables, or for an IP version without overlay.

        Returns whether all of these could be read.
        """
        removals: list[Callable[[], bool]] = []
        for version in VERSIONS:
            used = backend is not None and version in self._versions
            if nftables.installed() and not (used and backend == "nftables"):
                removals.append(partial(nftables.sync, version, None))
            for command in iptables.kinds(version):
                is_used = used and command == iptables.COMMANDS[version]
                if not is_used and iptables.may_have_rules(command):
                    removals.append(partial(iptables.sync, command, Ruleset()))
        complete = True
        for removal in removals:
            try:
                self.written |= removal()
            except CommandFailed as error:
                # Most likely this kernel lacks that backend altogether.
                log.debug("cannot read rules that another setting of firewall may have left", problem=error.message)
                complete = False
        for name in ours().sets:
            if name not in self._sets:
                try:
                    self.written |= ipset.remove(name)
                except KernelRefused as error:
                    log.debug("cannot remove a set of addresses", problem=error.message)
                    complete = False
        return complete

    def _iptables(self, version: int, *, accepts_only: bool) -> None:
        command = iptables.COMMANDS[version]
        rules = self._with_sets(ruleset(self._desired, version, accepts_only=accepts_only), version)
        less = iptables.without_nat(rules)
        self._sync(version, partial(iptables.sync, command), rules, less, partial(iptables.has_nat, command))

    def _nftables(self, version: int) -> None:
        rules = table(self._desired, version, alone=not iptables.installed(iptables.COMMANDS[version]))
        less = without_nat(rules) if rules else None
        self._sync(version, partial(nftables.sync, version), rules, less, partial(nftables.has_nat, version))

    def _with_sets(self, rules: Ruleset, version: int) -> Ruleset:
        """Make the sets that the rules use, and return the rules; where the kernel has no sets, rules without them."""
        text = repr(rules)
        members: tuple[tuple[str, str, frozenset[Any]], ...] = (
            (ours().peers(version), ipset.ADDRESSES, self._desired.peers_of(version)),
            (ours().leased(version), ipset.NETWORKS, self._desired.leased_of(version)),
        )
        try:
            for name, kind, desired in members:
                if name in text:
                    self.written |= ipset.sync(name, version, desired, kind=kind)
                    self._sets.add(name)
        except UnsupportedError as error:
            self.limits.append(f"{error.message}: packets of the backend are taken from any address")
            return without_sets(rules)
        except KernelRefused as error:
            # The set stays as it was. Packets of peers that it lacks are dropped.
            self.problems.append(str(error))
        return rules

    def _sync(
        self, version: int, sync: Callable[[R], bool], rules: R, less: R, kernel_has_nat: Callable[[], bool]
    ) -> None:
        """Sync `rules`; where the kernel has no NAT for IPv6, sync `less`, which are without it, and note the limit."""
        try:
            try:
                self.written |= sync(rules)
            except CommandFailed:
                if version != 6 or rules == less or kernel_has_nat():
                    raise
                self.limits.append("this kernel has no NAT for IPv6: what leaves the network keeps its source address")
                self.written |= sync(less)
        except CommandFailed as error:
            self.problems.append(error.message)
