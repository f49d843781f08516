"""Writes our part of firewalld's runtime configuration, and removes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from overlayd.errors import FirewalldRefused
from overlayd.firewalld.bus import Bus
from overlayd.firewalld.desired import Runtime, nothing
from overlayd.lib.log import logger
from overlayd.lib.marks import ours
from overlayd.lib.quick_dataclass import dataclass

log = logger("firewalld")

# The errors of a firewalld that has not read our files yet, and of releases without policies.
_UNKNOWN = ("INVALID_POLICY", "INVALID_IPSET")
_TOO_OLD = ("UnknownMethod", "UnknownInterface", "is not a valid interface", "No such interface")
# With more differences than this, an ipset is set as a whole.
SINGLES_AT_MOST = 32
_HINT = (
    "`firewall-cmd --reload` makes it read what the RPM put into /usr/lib/firewalld. Before firewalld 0.9 there are no "
    "policies: let the backend's port in by hand"
)
# The RPM has policies and ipsets for network 0 only, and firewalld makes no new ones at runtime.
_COPY = (
    "for f in /usr/lib/firewalld/policies/overlayd-*.xml /usr/lib/firewalld/ipsets/overlayd-*.xml; do "
    "sed 's/overlayd-/{name}-/g' $f > /etc/firewalld/$(echo ${{f#/usr/lib/firewalld/}} | sed 's/overlayd-/{name}-/'); "
    "done && firewall-cmd --reload"
)


@dataclass(frozen=True, kw_only=True)
class FirewalldReport:
    """The result of one `sync`. With a `problem` packets are dropped, unless the administrator accepts them."""

    runs: bool = False
    written: bool = False
    problem: str | None = None


class Firewalld:
    """Keeps our policies and ipsets filled while firewalld runs. Called in one thread."""

    def __init__(self, *, enabled: bool = True) -> None:
        """Without `enabled` it does nothing at all."""
        self._bus = Bus() if enabled else None
        self._logged_problem: str | None = None

    def sync(self, desired: Callable[[], Runtime]) -> FirewalldReport:
        """Write the configuration where firewalld runs and has another one. Never raises.

        firewalld loses it at every reload and restart. An unchanged state costs five D-Bus calls and writes nothing.
        `desired` is called only where it runs: there may be thousands of peers.
        """
        if self._bus is None:
            return FirewalldReport()
        runs = written = False
        try:
            runs = self._bus.firewalld_runs()
            written = runs and _write(self._bus, desired())
            problem = None
        except FirewalldRefused as error:
            problem = _explained(error)
        if problem is not None and problem != self._logged_problem:
            log.warning("firewalld does not let the overlay's packets through", problem=problem)
        self._logged_problem = problem
        if written:
            log.info("firewalld's runtime configuration written", policies=" ".join(nothing().policies))
        return FirewalldReport(runs=runs, written=written, problem=problem)

    def close(self) -> None:
        """Close the connection to the bus. firewalld keeps its configuration."""
        if self._bus is not None:
            self._bus.close()


def cleanup() -> Iterator[str]:
    """Empty our policies and ipsets where firewalld runs. Yields what was emptied. Raises FirewalldRefused."""
    bus = Bus()
    try:
        if bus.firewalld_runs() and _write(bus, nothing()):
            yield f"firewalld's rules in {' and '.join(nothing().policies)}"
    except FirewalldRefused as error:
        if not error.says(*_UNKNOWN, *_TOO_OLD):
            raise
    finally:
        bus.close()


def copy_command() -> str:
    """The command that gives firewalld policies and ipsets for a network other than 0."""
    return _COPY.format(name=ours().name)


def _explained(error: FirewalldRefused) -> str:
    if error.says(*_UNKNOWN, *_TOO_OLD):
        hint = f"copy network 0's: {copy_command()}" if ours().number else _HINT
        return f"firewalld runs and does not know {error.obj}: it rejects packets of peers; {hint}"
    return error.message


def _write(bus: Bus, desired_runtime: Runtime) -> bool:
    """Write what differs; returns whether anything did. Sets come first, as rules refer to them."""
    # Lists, so that all of them are written: any() alone would end at the first difference.
    ipsets = [_ipset(bus, name, entries) for name, entries in desired_runtime.ipsets.items()]
    policies = [_policy(bus, name, rules) for name, rules in desired_runtime.policies.items()]
    return any((*ipsets, *policies))


def _policy(bus: Bus, name: str, rules: frozenset[str]) -> bool:
    settings = bus.call("policy", "getPolicySettings", "s", name)
    _signature, current = settings.get("rich_rules", ("as", []))
    if set(current) == rules:
        return False
    bus.call("policy", "setPolicySettings", "sa{sv}", name, {"rich_rules": ("as", sorted(rules))})
    return True


def _ipset(bus: Bus, name: str, entries: frozenset[str]) -> bool:
    current = set(bus.call("ipset", "getEntries", "s", name))
    if current == entries:
        return False
    if not current or not entries or len(current ^ entries) > SINGLES_AT_MOST:
        # setEntries empties the set first, so a set that is in use gets single entries instead. But each of them takes
        # firewalld 50 ms, and the daemon waits: a thousand peers that join at once would not be let in for a minute.
        bus.call("ipset", "setEntries", "sas", name, sorted(entries))
        return True
    for entry in sorted(entries - current):
        bus.call("ipset", "addEntry", "ss", name, entry)
    for entry in sorted(current - entries):
        bus.call("ipset", "removeEntry", "ss", name, entry)
    return True
