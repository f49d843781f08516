"""The extension backend's commands, their variables, and which of them have to be run. Pure.

A command is split into words as a shell would (POSIX quoting), and run without one. `$SUBNET` and its like are replaced
within a word, so their values are never split nor interpreted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from enum import Enum

from overlayd.errors import NetworkConfigError
from overlayd.leases.lease import Lease
from overlayd.lib.quick_dataclass import dataclass
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
        """Whether these set up what the others did. The commands that undo it may differ."""
        return (self.pre_startup, self.post_startup, self.subnet_add) == (
            other.pre_startup,
            other.post_startup,
            other.subnet_add,
        )


@dataclass(frozen=True, kw_only=True)
class HostVariables:
    """The variables of a command that is about one host: its subnets and addresses, empty where it has none.

    `data` is what its lease has as BackendData, which the command reads from standard input.
    """

    subnet: str = ""
    subnet6: str = ""
    public_ip: str = ""
    public_ip6: str = ""
    data: str = ""

    @classmethod
    def of(cls, lease: Lease) -> HostVariables:
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
        """The variables by name, for the words of a command and for its environment."""
        return dict(zip(PEER_VARIABLES, (self.subnet, self.subnet6, self.public_ip, self.public_ip6), strict=True))

    @property
    def name(self) -> str:
        """The host's name in messages: its subnet."""
        return self.subnet or self.subnet6

    @property
    def marks(self) -> frozenset[str]:
        """Subnets and addresses, none of which two hosts can have at one time."""
        return frozenset({self.subnet, self.subnet6, self.public_ip, self.public_ip6} - {""})


@dataclass(frozen=True, kw_only=True)
class PeerRecord:
    """A peer for which SubnetAddCommand was run. `settled`: the command is known to have succeeded."""

    host: HostVariables
    settled: bool


class PeerCommand(Enum):
    """The commands that are run for a peer, by their keys in the network config."""

    ADD = "SubnetAddCommand"
    REMOVE = "SubnetRemoveCommand"


@dataclass(frozen=True)
class CommandStep:
    """One command to run for one peer. Where it is not `binding`, the next steps are done although it fails."""

    verb: PeerCommand
    peer: str
    host: HostVariables
    binding: bool = True


def steps(held: Mapping[str, PeerRecord], desired: Mapping[str, HostVariables]) -> tuple[CommandStep, ...]:
    """The commands that lead from the peers that are set up to the desired ones, in the order to run them.

    Both are named by the keys of their leases. Peers are added before others are removed. But a peer whose lease
    changed, or whose addition is not known to have succeeded, is removed first, and so is one that shares a subnet or
    an address with a new one.
    """
    new = {peer: host for peer, host in desired.items() if held.get(peer) != PeerRecord(host=host, settled=True)}
    marks = frozenset().union(*(host.marks for host in new.values()))
    first: list[CommandStep] = []
    last: list[CommandStep] = []
    for peer, record in sorted(held.items()):
        if peer in new:
            first.append(CommandStep(PeerCommand.REMOVE, peer, record.host, binding=False))
        elif peer not in desired:
            step = CommandStep(PeerCommand.REMOVE, peer, record.host, binding=record.settled)
            (first if record.host.marks & marks else last).append(step)
    return (*first, *(CommandStep(PeerCommand.ADD, peer, host) for peer, host in sorted(new.items())), *last)


def words(command: str, variables: Mapping[str, str]) -> list[str]:
    """A command as the words of a program's arguments, its variables replaced."""
    return [
        _VARIABLE.sub(lambda name: variables.get(name[1] or name[2], name[0]), word) for word in shlex.split(command)
    ]


def check(key: str, command: str, variables: tuple[str, ...]) -> str:
    """Return the command if it can be run without a shell. Raises NetworkConfigError."""
    try:
        found = shlex.split(command)
    except ValueError as error:
        raise NetworkConfigError(f"{key} of backend extension is {sanitized(command)}: {error}") from error
    # execve(2) takes no such argument: a zero byte ends it, and half of a surrogate pair cannot be encoded.
    if "\0" in command or any("\ud800" <= character <= "\udfff" for character in command):
        raise NetworkConfigError(f"{key} of backend extension cannot be a program's argument: {sanitized(command)}")
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
                f"{key} of backend extension has {name[0]}, which is no variable of this command",
                hint=f"known: {', '.join(variables) or 'none'}; a script may ask for others",
            )
    return command
