"""The marks by which the objects of one network are known on a host, which may be in several networks.

Everything that is put into the kernel carries a mark, and nothing else is ever deleted: routes a protocol number, links
an alias, rules a comment, chains, sets and tables a name. Networks of one host are told apart by `network-number`, and
each number has marks of its own. Number 0 is the one that docker's default bridge belongs to.

Which number is ours is set once, by the command line, and read wherever a mark is written or looked for. It is not
passed from function to function: a process serves one network as long as it lives, and a call that forgot to pass it
would change objects of network 0 without an error. Apart from that number, this module is pure.
"""

from __future__ import annotations

import re
from functools import cache

from overlayd.lib.quick_dataclass import dataclass

HIGHEST_NUMBER = 9
# rtnetlink(7) leaves numbers above RTPROT_STATIC (4) to userland; 157 to 166 are in no rt_protos of a distribution.
FIRST_ROUTE_PROTOCOL = 157
# In a rule of any network: a jump or goto to a chain of overlayd.
_JUMP = re.compile(r"-[jg] OVERLAYD(\d?)-")
_WRITTEN = re.compile(r"--comment overlayd(\d?)(?= |$)|\b(?:ip6?|inet) overlayd(\d?) | OVERLAYD(\d?)-")

# In commands to paste: the unit and the commands of network 0.
_UNIT = re.compile(r"\b((?:systemctl (?:[a-z-]+ )+|journalctl -u ))overlayd\b(?![@.])")
_COMMAND = re.compile(r"\boverlayd (?:status|ping|doctor|check|cleanup|run)\b")


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The marks of the network of that number on this host."""

    number: int = 0

    @property
    def _digit(self) -> str:
        return str(self.number) if self.number else ""

    @property
    def name(self) -> str:
        """The alias of links, the comment of rules, the name of nftables' tables."""
        return f"overlayd{self._digit}"

    @property
    def unit(self) -> str:
        """The systemd unit of its daemon."""
        return f"overlayd@{self.number}" if self.number else "overlayd"

    @property
    def restart(self) -> str:
        """The command that restarts its daemon. `adapt_commands` does not change it, whichever network is ours."""
        return f"systemctl restart {self.unit}{'' if self.number else '.service'}"

    @property
    def flag(self) -> str:
        """The flag with which a command of overlayd is about this network; begins with a space; empty for network 0."""
        return f" --network-number={self.number}" if self.number else ""

    @property
    def route_protocol(self) -> int:
        """The protocol number of routes."""
        return FIRST_ROUTE_PROTOCOL + self.number

    @property
    def comment(self) -> str:
        """What every rule of iptables carries, as `iptables-save` prints it."""
        return f"-m comment --comment {self.name}"

    @property
    def chains(self) -> str:
        """What the name of every chain and set of iptables begins with."""
        return f"OVERLAYD{self._digit}-"

    def peers(self, version: int) -> str:
        """The set of peers' public addresses of an IP version (kernel/ipset.py)."""
        return f"{self.chains}PEERS{version}"

    def leased(self, version: int) -> str:
        """The set of peers' subnets of an IP version."""
        return f"{self.chains}LEASED{version}"

    @property
    def sets(self) -> tuple[str, ...]:
        """All sets."""
        return tuple(name(version) for name in (self.peers, self.leased) for version in (4, 6))

    def device(self, rest: str) -> str:
        """The name of a device: `overlay` and, but for network 0, the number, before `rest`."""
        return f"overlay{self._digit}{rest}"

    @property
    def tun(self) -> str:
        """The name of the TUN device."""
        return f"overlay{self.number}"

    def names(self, device: str) -> bool:
        """Whether a device has a name that only this network gives."""
        rest = device.removeprefix(f"overlay{self._digit}")
        begins = (".", "-", "x") if self.number else (".", "-")
        return device == self.tun or (rest != device and rest.startswith(begins))

    @property
    def bridge(self) -> str:
        """The bridge of this host's containers, where none has the subnet's address yet."""
        return f"br-overlay{self.number}" if self.number else "docker0"

    def adapt_commands(self, words: str) -> str:
        """A text whose commands are for network 0, with this network's unit and flag in them."""
        if not self.number:
            return words
        return _COMMAND.sub(rf"\g<0>{self.flag}", _UNIT.sub(rf"\1{self.unit}", words))


# Of all networks of this host: the aliases of links, and what the names of devices begin with.
ALIASES = frozenset(f"overlayd{number or ''}" for number in range(HIGHEST_NUMBER + 1))
DEVICES = "overlay"

_number = 0


@cache
def of(number: int) -> Marks:
    """The marks of the network of that number."""
    return Marks(number=number)


def ours() -> Marks:
    """The marks of the network that this process serves."""
    return of(_number)


def use(number: int) -> None:
    """From now on, this process serves the network of that number."""
    global _number  # noqa: PLW0603  (one network a process, see above)
    _number = number


def network_of_route(protocol: int) -> int | None:
    """The number of the network that a route is of; None if it is not overlayd's."""
    number = protocol - FIRST_ROUTE_PROTOCOL
    return number if 0 <= number <= HIGHEST_NUMBER else None


def network_of_rule(shown: str) -> int | None:
    """The number of the network whose daemon wrote a rule, as iptables or nft shows it with its chain; None: no one."""
    found = _WRITTEN.search(shown)
    return None if found is None else int(found[1] or found[2] or found[3] or 0)


def network_of_jump(rule: str) -> int | None:
    """The number of the network that a rule of iptables leads to a chain of; None if it is not overlayd's."""
    found = _JUMP.search(rule)
    return None if found is None else int(found[1] or 0)
