"""The input for `iptables-restore --noflush` that turns the kernel's rules into the desired ones. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from overlayd.firewall.chains import Jump, JumpPlace, Ruleset
from overlayd.lib.iptables_save import parse
from overlayd.lib.marks import Marks, network_of_jump, ours

# table → chain → rules without the `-A CHAIN` in front
Tables = Mapping[str, Mapping[str, tuple[str, ...]]]

# The tables whose rules let packets pass: accepts are in filter, and NAT is for packets that were accepted.
_ACCEPTING = ("filter", "nat")
_IP_IN_IP = re.compile(r"-p (?:ipencap|ipv4|ip-in-ip) ")
_MAC = re.compile(r"--mac-source \S+")
_UNCONDITIONAL = re.compile(r'(?:-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) )?-j (?P<verdict>\S+)')


@cache
def _of(marks: Marks) -> re.Pattern[str]:
    return re.compile(rf'--comment "?{marks.name}"?( |$)|-[jg] {marks.chains}')


def _is_ours(rule: str) -> bool:
    return _of(ours()).search(rule) is not None


def read(saved: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """The rules in what `iptables-save` printed, by table and chain, ours in the spelling in which we write them."""
    return {
        table: {name: tuple(map(_normalized, chain.rules)) for name, chain in chains.items()}
        for table, chains in parse(saved).items()
    }


def _normalized(rule: str) -> str:
    """A rule as we write it. Some releases quote comments, give protocol 4 a name, or print MACs in capitals."""
    rule = rule.replace(f'--comment "{ours().name}"', f"--comment {ours().name}")
    if not re.search(rf"{ours().comment}(?: |$)", rule):
        return rule
    return _MAC.sub(lambda found: found[0].lower(), _IP_IN_IP.sub("-p 4 ", rule))


def changes(desired: Ruleset, there: Tables) -> dict[str, list[str]]:
    """The lines to restore, for each table that differs from the desired rules; empty where none does.

    Chains and rules of ours that are not desired are removed. Those of others stay, in their order.
    """
    names = {chain.table for chain in desired.chains} | {jump.table for jump in desired.jumps} | set(there)
    found = {}
    # iptables-restore stops at a table that the kernel refuses. So the tables that accept packets are written after
    # those that drop them, and emptied before those.
    for table in sorted(names, key=lambda name: (name in _ACCEPTING, name), reverse=not desired.chains):
        lines = _table(table, desired, there.get(table, {}))
        if lines:
            found[table] = lines
    return found


def restore_input(lines: Mapping[str, Iterable[str]]) -> str:
    """The text for `iptables-restore --noflush`. The kernel takes each table as a whole, or refuses it as a whole."""
    parts = [part for table, body in lines.items() for part in (f"*{table}", *body, "COMMIT")]
    return "".join(f"{part}\n" for part in parts)


def _table(table: str, desired: Ruleset, there: Mapping[str, tuple[str, ...]]) -> list[str]:
    chains = {chain.name: chain.rules for chain in desired.chains if chain.table == table}
    surplus = [name for name in there if name.startswith(ours().chains) and name not in chains]
    stale = [name for name, rules in chains.items() if there.get(name) != rules]
    # `:NAME` makes a chain, or empties one that exists (iptables-restore(8), --noflush).
    lines = [f":{name} - [0:0]" for name in (*stale, *surplus)]
    for name in stale:
        lines += [f"-A {name} {rule}" for rule in chains[name]]
    jumps = [_existing(jump, there) for jump in desired.jumps if jump.table == table]
    foreign = [name for name in there if not name.startswith(ours().chains)]
    for name in sorted({*foreign, *(jump.chain for jump in jumps)}):
        lines += _place(name, [jump for jump in jumps if jump.chain == name], there.get(name, ()))
    lines += [f"-X {name}" for name in surplus]
    return lines


def _existing(jump: Jump, there: Mapping[str, tuple[str, ...]]) -> Jump:
    return jump if jump.instead is None or jump.chain in there else jump.instead


def _place(name: str, jumps: list[Jump], rules: tuple[str, ...]) -> list[str]:
    """The lines that put our jumps in their place in a chain that is not ours, and remove other rules of ours there."""
    target = [rule for rule in rules if not _is_ours(rule)]
    for jump in sorted(jumps, key=lambda jump: jump.place is JumpPlace.FIRST):
        at = _position(jump, target, rules)
        target.insert(at, jump.rule)
    if tuple(target) == rules:
        return []
    inserts = [(at, rule) for at, rule in enumerate(target) if _is_ours(rule)]
    deleted = [f"-D {name} {rule}" for rule in rules if _is_ours(rule)]
    return [*deleted, *(f"-I {name} {at + 1} {rule}" for at, rule in inserts)]


def _position(jump: Jump, others: list[str], rules: tuple[str, ...]) -> int:
    """The index among `others` at which our jump has to stand.

    Jumps of this host's other networks stand beside it, in the order of the networks' numbers: so all daemons agree on
    the order, and none moves the jump of another.
    """
    if jump.place is JumpPlace.FIRST:
        return next((at for at, rule in enumerate(others) if not _is_before_ours(rule)), len(others))
    if jump.place is JumpPlace.ANYWHERE:
        if jump.rule in rules:
            before = rules[: rules.index(jump.rule)]
            return sum(1 for rule in before if not _is_ours(rule))
        return len(others)
    last = next((at for at, rule in enumerate(others) if _closes(jump, rule)), len(others))
    while last and _is_behind_ours(others[last - 1]):
        last -= 1
    return last


def _closes(jump: Jump, rule: str) -> bool:
    unconditional = _UNCONDITIONAL.match(rule)
    return unconditional is not None and unconditional["verdict"] in jump.closing


def _is_before_ours(rule: str) -> bool:
    network = network_of_jump(rule)
    return network is not None and network < ours().number


def _is_behind_ours(rule: str) -> bool:
    network = network_of_jump(rule)
    return network is not None and network > ours().number
