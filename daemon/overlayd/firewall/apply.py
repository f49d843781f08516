"""What is wanted, brought into the kernel by iptables or nftables; and all of it taken away again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from overlayd.errors import CommandFailed, KernelRefused, OverlaydError, UnsupportedError
from overlayd.firewall import iptables, nftables
from overlayd.firewall.chains import Ruleset, ruleset, without_sets
from overlayd.firewall.rules import VERSIONS, DesiredRules
from overlayd.firewall.table import NFT_LEASED, NFT_PEERS, table, without_nat
from overlayd.kernel import ipset
from overlayd.lib.addresses import IPAddress, IPNetwork, ip_address, ip_network
from overlayd.lib.log import logger
from overlayd.lib.marks import ours

log = logger("firewall")

T = TypeVar("T")
R = TypeVar("R")

_PACKAGES = "install the package iptables (from EL 9: iptables-nft) or nftables, or set firewall to none"
_COMMANDS = {"iptables": "iptables-restore", "nftables": "nft"}


@dataclass(frozen=True, kw_only=True)
class FirewallReport:
    """What one look came to.

    `backend` is iptables, nftables, or None where nothing keeps the rules. `problems` keep packets from their way;
    `limits` do not: what this kernel cannot do is left out.
    """

    backend: str | None
    written: bool = False
    problems: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


class Firewall:
    """Keeps this host's rules as wanted, for both IP versions. Called in one thread."""

    def __init__(self, choice: str, *, prefer_nftables: bool = False) -> None:
        """`choice` is auto, iptables, nftables or none; `auto` takes nftables first if that is preferred."""
        self._choice = choice
        self._prefer_nftables = prefer_nftables
        self._tidy = False
        self._said: set[str] = set()

    def sync(self, wanted: DesiredRules) -> FirewallReport:
        """Make the rules as wanted, in their order; at first, remove too what another choice left. Never raises.

        An unchanged state writes nothing.
        """
        look = _Look(wanted)
        backend = self._backend(look)
        if backend is not None:
            look.bring(backend)
        if not self._tidy and not look.problems:
            # Not before ours is there: packets that pass by the old rules go on passing.
            self._tidy = look.tidy(backend)
        for limit in set(look.limits) - self._said:
            log.warning("the firewall does not do all that it should", reason=limit)
        self._said = set(look.limits)
        return FirewallReport(
            backend=backend, written=look.written, problems=tuple(look.problems), limits=tuple(look.limits)
        )

    def members(self) -> tuple[frozenset[IPAddress], frozenset[IPNetwork]]:
        """Peers' addresses and subnets that the rules of the last run know; none where there are none. Never raises."""
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
        """Drop what no rule lets through, as dockerd does when it turns forwarding on; call it before you do.

        Docker, which starts after us, finds forwarding on and leaves the policy as it is: every host would be a router
        for anybody. None, or why it was not done. Never raises.
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

    def _backend(self, look: _Look) -> str | None:
        there = {"iptables": iptables.installed("iptables"), "nftables": nftables.installed()}
        if self._choice == "none":
            return None
        if self._choice == "auto":
            preferred = ("nftables", "iptables") if self._prefer_nftables else ("iptables", "nftables")
            found = next((name for name in preferred if there[name]), None)
            if found is None:
                look.problems.append(f"there is neither iptables-restore nor nft to write firewall rules: {_PACKAGES}")
            return found
        if there[self._choice]:
            return self._choice
        look.problems.append(f"firewall is {self._choice}, and there is no {_COMMANDS[self._choice]}: {_PACKAGES}")
        return None


def _read(kind: Callable[[str], T], texts: Iterable[str]) -> Iterator[T]:
    for text in texts:
        # nft shows what somebody else added in forms of its own.
        with contextlib.suppress(ValueError):
            yield kind(text)


def cleanup() -> Iterator[str]:
    """Remove all of ours, of both IP versions, whatever wrote it and whenever; name what was removed.

    What cannot be removed does not keep the rest. Raises CommandFailed at the end.
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


class _Look:
    """One look at the rules: what it found wrong, and whether it wrote."""

    def __init__(self, wanted: DesiredRules) -> None:
        self._wanted = wanted
        self._carried = [version for version in VERSIONS if wanted.overlay(version) is not None]
        self._sets: set[str] = set()
        self.written = False
        self.problems: list[str] = []
        self.limits: list[str] = []

    def bring(self, backend: str) -> None:
        """Bring all rules in order, one IP version after the other."""
        for version in self._carried:
            command = iptables.COMMANDS[version]
            if backend == "nftables":
                before = len(self.problems)
                self._nftables(version)
                # A drop in iptables is final, and an accept of ours elsewhere is not: the doors must be there. Not
                # where what keeps strangers out could not be written.
                if iptables.installed(command) and len(self.problems) == before:
                    self._iptables(version, accepts_only=True)
            elif iptables.installed(command):
                self._iptables(version, accepts_only=False)
            else:
                self.problems.append(f"there is no {command}-restore to write IPv{version} rules: {_PACKAGES}")

    def tidy(self, backend: str | None) -> bool:
        """Remove what is ours and no longer kept: by another backend or kind, or for an IP version not carried.

        Whether all of it could be looked for.
        """
        removals: list[Callable[[], bool]] = []
        for version in VERSIONS:
            carried = backend is not None and version in self._carried
            if nftables.installed() and not (carried and backend == "nftables"):
                removals.append(partial(nftables.sync, version, None))
            for command in iptables.kinds(version):
                if not (carried and command == iptables.COMMANDS[version]):
                    removals.append(partial(iptables.sync, command, Ruleset()))
        whole = True
        for removal in removals:
            try:
                self.written |= removal()
            except CommandFailed as error:
                # Most likely what this kernel does not have at all.
                log.debug("cannot look for rules of another choice", problem=error.message)
                whole = False
        for name in ours().sets:
            if name not in self._sets:
                try:
                    self.written |= ipset.remove(name)
                except KernelRefused as error:
                    log.debug("cannot remove a set of addresses", problem=error.message)
                    whole = False
        return whole

    def _iptables(self, version: int, *, accepts_only: bool) -> None:
        command = iptables.COMMANDS[version]
        rules = self._with_sets(ruleset(self._wanted, version, accepts_only=accepts_only), version)
        less = iptables.without_nat(rules)
        self._sync(version, partial(iptables.sync, command), rules, less, partial(iptables.has_nat, command))

    def _nftables(self, version: int) -> None:
        rules = table(self._wanted, version, alone=not iptables.installed(iptables.COMMANDS[version]))
        less = without_nat(rules) if rules else None
        self._sync(version, partial(nftables.sync, version), rules, less, partial(nftables.has_nat, version))

    def _with_sets(self, rules: Ruleset, version: int) -> Ruleset:
        """The rules, with the sets that they name in the kernel; without them where the kernel has no sets."""
        text = repr(rules)
        members: tuple[tuple[str, str, frozenset[Any]], ...] = (
            (ours().peers(version), ipset.ADDRESSES, self._wanted.peers_of(version)),
            (ours().leased(version), ipset.NETWORKS, self._wanted.leased_of(version)),
        )
        try:
            for name, kind, wanted in members:
                if name in text:
                    self.written |= ipset.sync(name, version, wanted, kind=kind)
                    self._sets.add(name)
        except UnsupportedError as error:
            self.limits.append(f"{error.message}: packets of the backend are taken from any address")
            return without_sets(rules)
        except KernelRefused as error:
            # The set stays as it was: what peers it lacks cannot send.
            self.problems.append(str(error))
        return rules

    def _sync(
        self, version: int, sync: Callable[[R], bool], rules: R, less: R, kernel_has_nat: Callable[[], bool]
    ) -> None:
        """Sync `rules`; where the kernel cannot translate IPv6 addresses, `less` without that, and say so."""
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
