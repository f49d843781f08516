"""SELinux with the distribution's policy on a virtual machine: labels, the mode, and what the kernel denied."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tests.testbed.cluster.additions import POLICY
from tests.testbed.cluster.virtual_machine import VirtualMachine
from tests.testbed.polling import eventually

_ON = " security=selinux selinux=1 enforcing=1"
_DENIED = re.compile(
    r'avc: +denied +\{ (?P<permissions>[^}]*) \} for .*?(?:comm="?(?P<command>[^" ]*)"?)? .*?'
    r"scontext=(?P<source>\S+) tcontext=(?P<target>\S+) tclass=(?P<kind>\S+)"
)
_NAMED = re.compile(r'\b(?:comm|path|name|exe)="?([^" ]*)"?')
_LABELLED_S = 1800.0
_WHERE = "/etc/selinux/{policy}/contexts/files/file_contexts"


@dataclass(frozen=True, kw_only=True, order=True)
class Denial:
    """One kind of access that was denied: types of subject and object, the class, permissions, the program, paths."""

    command: str
    source: str
    target: str
    kind: str
    permissions: str
    names: tuple[str, ...]


def denials(text: str) -> set[Denial]:
    """The kinds of denials in the kernel's log or auditd's. Pure."""
    found = set()
    for line in text.splitlines():
        if match := _DENIED.search(line):
            found.add(
                Denial(
                    command=match["command"] or "",
                    source=match["source"].split(":")[2],
                    target=match["target"].split(":")[2],
                    kind=match["kind"],
                    permissions=match["permissions"].strip(),
                    names=tuple(sorted(set(_NAMED.findall(line)))),
                )
            )
    return found


def denied(machine: VirtualMachine) -> set[Denial]:
    """What the kernel denied since the machine booted."""
    return denials(machine.shell("dmesg; cat /var/log/audit/audit.log 2>/dev/null || true"))


def label(machine: VirtualMachine) -> None:
    """Give every file of the disk the label that the policy names, also those below other mounts."""
    contexts = _WHERE.format(policy=POLICY)
    script = (
        "mkdir -p /run/whole && mount --bind / /run/whole && "
        f"setfiles -F -r /run/whole {contexts} /run/whole && touch /run/labelled; umount /run/whole"
    )
    # A command by ssh would be given up before: eight minutes were too short for 30,000 files on a busy computer.
    machine.run("systemd-run", "--quiet", "--collect", "--no-block", "sh", "-c", script)
    eventually("all files are labelled", lambda: machine.succeeds("test", "-e", "/run/labelled"), timeout_s=_LABELLED_S)


def switch_on(machine: VirtualMachine) -> None:
    """Boot again with SELinux enforcing: by the policy's own configuration, and the kernel's command line."""
    machine.shell("sed -i s/^SELINUX=.*/SELINUX=enforcing/ /etc/selinux/config; rm -f /var/log/audit/audit.log; sync")
    machine.power_off()
    file = machine.folder / "options.json"
    words = json.loads(file.read_text())
    place = words.index("-append") + 1
    if _ON not in words[place]:
        words[place] += _ON
        file.write_text(json.dumps(words))
    machine.boot()


def mode(machine: VirtualMachine) -> str:
    """What the kernel does: `Enforcing`, `Permissive` or `Disabled`."""
    return machine.output_of("getenforce").strip()


def context(machine: VirtualMachine, unit: str) -> str:
    """The context of a unit's main process."""
    number = machine.unit(unit, "MainPID")["MainPID"]
    return machine.output_of("cat", f"/proc/{number}/attr/current").strip("\0\n")
