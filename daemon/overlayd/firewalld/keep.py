"""Keeps firewalld's runtime configuration as wanted, and takes it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from overlayd.errors import FirewalldRefused
from overlayd.firewalld.bus import Bus
from overlayd.firewalld.desired import Runtime, nothing
from overlayd.lib.log import logger
from overlayd.lib.marks import ours

log = logger("firewalld")

# What older releases, and one that has not read our files yet, answer.
_UNKNOWN = ("INVALID_POLICY", "INVALID_IPSET")
_TOO_OLD = ("UnknownMethod", "UnknownInterface", "is not a valid interface", "No such interface")
_HINT = (
    "`firewall-cmd --reload` makes it read what the RPM put into /usr/lib/firewalld. Before firewalld 0.9 there are no "
    "policies: let the backend's port in by hand"
)
# firewalld makes neither policies nor ipsets at runtime, and what the RPM brings is network 0's.
_COPY = (
    "for f in /usr/lib/firewalld/policies/overlayd-*.xml /usr/lib/firewalld/ipsets/overlayd-*.xml; do "
    "sed 's/overlayd-/{name}-/g' $f > /etc/firewalld/$(echo ${{f#/usr/lib/firewalld/}} | sed 's/overlayd-/{name}-/'); "
    "done && firewall-cmd --reload"
)


@dataclass(frozen=True, kw_only=True)
class FirewalldReport:
    """What one look came to. `problem` keeps packets from their way where nobody else lets them through."""

    runs: bool = False
    written: bool = False
    problem: str | None = None


class Firewalld:
    """Keeps our policies and ipsets filled while firewalld runs. Called in one thread."""

    def __init__(self, *, enabled: bool = True) -> None:
        """Not `enabled`: it is not even asked."""
        self._bus = Bus() if enabled else None
        self._said: str | None = None

    def sync(self, wanted: Runtime) -> FirewalldReport:
        """Make the runtime configuration as wanted, where firewalld runs; never raises.

        It forgets at every reload and restart. An unchanged state costs five calls in this process, and writes nothing.
        """
        if self._bus is None:
            return FirewalldReport()
        runs = written = False
        try:
            runs = self._bus.firewalld_runs()
            written = runs and _bring(self._bus, wanted)
            problem = None
        except FirewalldRefused as error:
            problem = _explained(error)
        if problem is not None and problem != self._said:
            log.warning("firewalld does not let the overlay's packets through", problem=problem)
        self._said = problem
        if written:
            log.info("firewalld's runtime configuration written", policies=" ".join(wanted.policies))
        return FirewalldReport(runs=runs, written=written, problem=problem)

    def close(self) -> None:
        """Let go of the bus; what firewalld was told stays."""
        if self._bus is not None:
            self._bus.close()


def cleanup() -> Iterator[str]:
    """Empty our policies and ipsets, where firewalld runs; name what was emptied. Raises FirewalldRefused."""
    bus = Bus()
    try:
        if bus.firewalld_runs() and _bring(bus, nothing()):
            yield f"firewalld's rules in {' and '.join(nothing().policies)}"
    except FirewalldRefused as error:
        if not error.says(*_UNKNOWN, *_TOO_OLD):
            raise
    finally:
        bus.close()


def copy_command() -> str:
    """What gives firewalld policies and ipsets for this network, which is not 0."""
    return _COPY.format(name=ours().name)


def _explained(error: FirewalldRefused) -> str:
    if error.says(*_UNKNOWN, *_TOO_OLD):
        hint = f"copy network 0's: {copy_command()}" if ours().number else _HINT
        return f"firewalld runs and does not know {error.obj}: it rejects what comes from peers; {hint}"
    return error.message


def _bring(bus: Bus, wanted: Runtime) -> bool:
    """Make it as wanted; whether anything was written. Sets first: a rule must not refer to an old one."""
    # Every one, also after the first that was not as it should be.
    ipsets = [_ipset(bus, name, entries) for name, entries in wanted.ipsets.items()]
    policies = [_policy(bus, name, rules) for name, rules in wanted.policies.items()]
    return any((*ipsets, *policies))


def _policy(bus: Bus, name: str, rules: frozenset[str]) -> bool:
    settings = bus.call("policy", "getPolicySettings", "s", name)
    _signature, there = settings.get("rich_rules", ("as", []))
    if set(there) == rules:
        return False
    bus.call("policy", "setPolicySettings", "sa{sv}", name, {"rich_rules": ("as", sorted(rules))})
    return True


def _ipset(bus: Bus, name: str, entries: frozenset[str]) -> bool:
    there = set(bus.call("ipset", "getEntries", "s", name))
    if there == entries:
        return False
    if not there or not entries:
        # All at once; but firewalld empties the set first, so one that is in use gets single entries.
        bus.call("ipset", "setEntries", "sas", name, sorted(entries))
        return True
    for entry in sorted(entries - there):
        bus.call("ipset", "addEntry", "ss", name, entry)
    for entry in sorted(there - entries):
        bus.call("ipset", "removeEntry", "ss", name, entry)
    return True
