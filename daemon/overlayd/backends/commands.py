"""The extension backend's commands, what each is told, and which have to be run. Pure.

A command is split into words as a shell would (POSIX quoting), and run without one. `$SUBNET` and its like are replaced
within a word, so what they stand for is never split nor interpreted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from overlayd.errors import NetworkConfigError
from overlayd.leases.lease import Lease
from overlayd.lib.sanitize import sanitized

# As flannel names them, for the commands about peers, and for those about this host.
PEER_VARIABLES = ("SUBNET", "IPV6SUBNET", "PUBLIC_IP", "PUBLIC_IPV6")
OWN_VARIABLES = ("NETWORK", "IPV6NETWORK", *PEER_VARIABLES)

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\\.")
_SHELL_ONLY = re.compile(r"[;&|<>`\n]|\$\(")


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The commands of one network config; an empty one is not run."""

    pre_startup: str = ""
    post_startup: str = ""
    subnet_add: str = ""
    subnet_remove: str = ""
    shutdown: str = ""

    def does_the_same_as(self, other: Commands) -> bool:
        """Whether what these set up is what the others did. How it is undone may have been mended since."""
        return (self.pre_startup, self.post_startup, self.subnet_add) == (
            other.pre_startup,
            other.post_startup,
            other.subnet_add,
        )


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a command is told of one host: its subnets and addresses, empty where it has none, and its lease's data."""

    subnet: str = ""
    subnet6: str = ""
    public_ip: str = ""
    public_ip6: str = ""
    data: str = ""

    @classmethod
    def of(cls, lease: Lease) -> Told:
        """From a lease."""
        return cls(
            subnet=str(lease.v4.subnet) if lease.v4 else "",
            subnet6=str(lease.v6.subnet) if lease.v6 else "",
            public_ip=str(lease.v4.public_ip) if lease.v4 else "",
            public_ip6=str(lease.v6.public_ip) if lease.v6 else "",
            data=next(
                (family_lease.data for family_lease in lease.family_leases if isinstance(family_lease.data, str)), ""
            ),
        )

    def variables(self) -> dict[str, str]:
        """The environment for it."""
        return dict(zip(PEER_VARIABLES, (self.subnet, self.subnet6, self.public_ip, self.public_ip6), strict=True))

    @property
    def name(self) -> str:
        """What the host is called in messages."""
        return self.subnet or self.subnet6

    @property
    def marks(self) -> frozenset[str]:
        """What two hosts at one time cannot both have."""
        return frozenset({self.subnet, self.subnet6, self.public_ip, self.public_ip6} - {""})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A peer for which SubnetAddCommand was run. Not `settled`: it failed, or its end was never seen."""

    told: Told
    settled: bool


class Verb(Enum):
    """What is run for a peer."""

    ADD = "SubnetAddCommand"
    REMOVE = "SubnetRemoveCommand"


@dataclass(frozen=True)
class Step:
    """One command for one peer. Not `binding`: its failure does not count, something else is done either way."""

    verb: Verb
    peer: str
    told: Told
    binding: bool = True


def steps(held: Mapping[str, Entry], wanted: Mapping[str, Told]) -> tuple[Step, ...]:
    """What leads from the peers held to those wanted, both named by their leases' keys, in the order to do it.

    Peers are added before others are removed. A changed lease, or an addition that did not come to its end, is removed
    first, and so is what shares a subnet or an address with a new one.
    """
    new = {peer: told for peer, told in wanted.items() if held.get(peer) != Entry(told=told, settled=True)}
    marks = frozenset().union(*(told.marks for told in new.values()))
    first: list[Step] = []
    last: list[Step] = []
    for peer, entry in sorted(held.items()):
        if peer in new:
            first.append(Step(Verb.REMOVE, peer, entry.told, binding=False))
        elif peer not in wanted:
            found = Step(Verb.REMOVE, peer, entry.told, binding=entry.settled)
            (first if entry.told.marks & marks else last).append(found)
    return (*first, *(Step(Verb.ADD, peer, told) for peer, told in sorted(new.items())), *last)


def words(command: str, variables: Mapping[str, str]) -> list[str]:
    """The words to run, variables replaced."""
    return [
        _VARIABLE.sub(lambda name: variables.get(name[1] or name[2], name[0]), word) for word in shlex.split(command)
    ]


def check(key: str, command: str, variables: tuple[str, ...]) -> str:
    """The command, if it can be run without a shell. Raises NetworkConfigError."""
    try:
        found = shlex.split(command)
    except ValueError as error:
        raise NetworkConfigError(f"{key} of backend extension is {sanitized(command)}: {error}") from error
    # What no program can be given: a zero byte ends an argument, and half a character is none.
    if "\0" in command or any("\ud800" <= character <= "\udfff" for character in command):
        raise NetworkConfigError(f"{key} of backend extension is no text for a program: {sanitized(command)}")
    if command and not found:
        raise NetworkConfigError(f"{key} of backend extension is blank", hint="leave it out")
    if _SHELL_ONLY.search(_QUOTED.sub("", command)):
        raise NetworkConfigError(
            f"{key} of backend extension needs a shell, and is run without one: {sanitized(command)}",
            hint="put it into a script on every host, in the folder that extension-commands names there",
        )
    for name in _VARIABLE.finditer(command):
        if (name[1] or name[2]) not in variables:
            raise NetworkConfigError(
                f"{key} of backend extension has {name[0]}, which nothing is known of",
                hint=f"known: {', '.join(variables) or 'none'}; a script may ask for others",
            )
    return command
