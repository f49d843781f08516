"""SELinux with the distribution's policy on a virtual machine: the mode, labels, and what the kernel denied."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.testbed.cluster.virtual_machine import VirtualMachine

_DENIED = re.compile(
    r"avc: +denied +\{ (?P<permissions>[^}]*) \} for (?P<about>.*?) ?"
    r"scontext=(?P<source>\S+) tcontext=(?P<target>\S+) tclass=(?P<kind>\S+)"
)
_COMMAND = re.compile(r'\bcomm="([^"]*)"')


@dataclass(frozen=True, kw_only=True, order=True)
class Denial:
    """One kind of access that was denied: the types of subject and object, the class, permissions, and the program."""

    command: str
    source: str
    target: str
    kind: str
    permissions: str


def denials(text: str) -> set[Denial]:
    """The kinds of denials in what the kernel logged, in its own words or those of the journal. Pure."""
    found = set()
    for match in _DENIED.finditer(text):
        command = _COMMAND.search(match["about"])
        found.add(
            Denial(
                command=command[1] if command else "",
                source=match["source"].split(":")[2],
                target=match["target"].split(":")[2],
                kind=match["kind"],
                permissions=match["permissions"].strip(),
            )
        )
    return found


def denied(machine: VirtualMachine) -> set[Denial]:
    """What was denied since the machine booted."""
    return denials(machine.shell("dmesg; journalctl --boot --output=cat _TRANSPORT=audit"))


def mode(machine: VirtualMachine) -> str:
    """What the kernel does: `Enforcing`, `Permissive` or `Disabled`."""
    return machine.run("getenforce").strip()


def context(machine: VirtualMachine, unit: str) -> str:
    """The context of a unit's main process."""
    number = machine.unit(unit, "MainPID")["MainPID"]
    return machine.run("cat", f"/proc/{number}/attr/current").strip("\0\n")
