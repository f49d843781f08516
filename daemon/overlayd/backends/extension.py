"""flannel's extension backend: commands of the network config make the data path.

overlayd adds what flannel leaves out: commands are run for what differs from what was done before, a failed one is run
again, none may hang, and all is undone in the end. What the commands made cannot be read back, so what somebody else
breaks in it is not mended; `overlayd cleanup` and a start do all of it anew.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any, ClassVar, Self

from overlayd.backends import ledger as ledgers
from overlayd.backends.allowed_commands import SETTING, Consent
from overlayd.backends.commands import (
    OWN_VARIABLES,
    PEER_VARIABLES,
    Commands,
    Entry,
    Step,
    Told,
    Verb,
    check,
    steps,
)
from overlayd.backends.environment import Environment
from overlayd.backends.ledger import Ledger
from overlayd.backends.listening import Listening
from overlayd.backends.options import Options
from overlayd.backends.peers import Reason
from overlayd.backends.undo import run_command, undo_and_say
from overlayd.errors import CommandFailed, NetworkConfigError
from overlayd.kernel import interfaces
from overlayd.kernel.converge import ConvergeReport, Plan, converge, require
from overlayd.leases.lease import Lease
from overlayd.lib.log import logger

log = logger("extension")

KEYS = ("PreStartupCommand", "PostStartupCommand", "SubnetAddCommand", "SubnetRemoveCommand", "ShutdownCommand")
STARTUP_S = 30.0
# Of one reconciliation. What does not fit waits for the next: the daemon has other things to look after, and must be
# able to stop.
ROUND_S = 5.0
FIRST_RETRY_S, LAST_RETRY_S = 5.0, 60.0
# etcd takes values up to 1.5 MB; every host reads all of them.
DATA_BYTES_AT_MOST = 64 * 1024
_LOOKED_AT = 16


@dataclass(frozen=True)
class _Failure:
    """How often a step failed, what was said, and when it may be tried again, on the monotonic clock."""

    step: Step
    problem: str
    count: int
    not_before: float


class Extension:
    """The extension backend on one host."""

    type: ClassVar[str] = "extension"
    keys: ClassVar[tuple[str, ...]] = KEYS
    one_route: ClassVar[bool] = False

    def __init__(self, environment: Environment, commands: Commands) -> None:
        """Values only; the first command is run by `lease_data`."""
        self._environment = environment
        self._commands = commands
        # A config that is only checked has none, and runs nothing.
        self._consent = environment.consent or Consent()
        self._ledger: Ledger | None = None
        self._devices = [environment.underlay.ifname]
        self._failed: dict[str, _Failure] = {}
        self._looked_at: set[str] = set()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: flannel's four commands, and ShutdownCommand, which undoes the first two."""
        options = Options(cls.type, config, cls.keys)
        known = ((), OWN_VARIABLES, PEER_VARIABLES, PEER_VARIABLES, OWN_VARIABLES)
        pre, post, add, remove, shutdown = (
            check(key, options.text(key), names) for key, names in zip(KEYS, known, strict=True)
        )
        for command in (pre, post, add, remove, shutdown) if environment.consent else ():
            refusal = environment.consent.refusal(command) if environment.consent else None
            if refusal is not None:
                raise NetworkConfigError(
                    f"the network config asks for backend extension: {refusal}",
                    hint=f"set {SETTING} on this host to a folder of programs for this (overlayd.conf(5))",
                )
        commands = Commands(pre_startup=pre, post_startup=post, subnet_add=add, subnet_remove=remove, shutdown=shutdown)
        return cls(environment, commands)

    @property
    def mtu_bytes(self) -> int:
        """The underlay's own, as flannel has it: nobody knows what the commands add to a packet."""
        return self._environment.underlay.mtu_bytes

    @property
    def devices(self) -> tuple[str, ...]:
        """The underlay's interface, and those to which peers' subnets are found to be routed."""
        return tuple(self._devices)

    @property
    def listens(self) -> tuple[Listening, ...]:
        """Nothing that anybody but the commands knows of; they let it in."""
        return ()

    def lease_data(self, version: int) -> str | None:  # noqa: ARG002  (one text for both)
        """What PreStartupCommand printed. It is run once a boot. Raises CommandFailed."""
        ledger = self._begin()
        return ledger.started if self._commands.pre_startup else None

    def open(self, own: Lease) -> None:
        """Run PostStartupCommand, once a boot for one subnet. Raises CommandFailed, KernelRefused."""
        require(Plan(base=self._environment.base(own)))
        ledger, variables = self._begin(), self._own_variables(own)
        if ledger.own is not None and ledger.own != variables:
            log.warning("another subnet or address: all is undone and done anew", subnet=own.subnets)
            published = ledger.started
            self._undo(ledger)
            self._ledger = None
            ledger = self._begin()
            if ledger.started != published:
                raise CommandFailed("PreStartupCommand printed something else than what the lease says; publishing it")
        if ledger.own is None:
            if self._commands.post_startup:
                log.info("PostStartupCommand", subnet=own.subnets)
                run_command(self._commands.post_startup, variables, self._consent, timeout_s=STARTUP_S)
            ledger.own = variables
            self._write()

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """See Backend. Runs commands for the peers that differ, for ROUND_S; the others are problems until then."""
        judged = self._environment.judge(peers, own=own, backend_type=self.type, usable=_too_talkative)
        wanted = {peer.key_name: Told.of(peer) for peer in judged.served}
        report = converge(Plan(base=self._environment.base(own), problems=judged.problems, untold=judged.untold))
        run, failures = self._serve(wanted)
        self._look_for_devices(wanted)
        return ConvergeReport(
            written=report.written + run,
            problems=report.problems,
            peer_problems={**report.peer_problems, **failures},
            paths={peer: self.type for peer in wanted if peer not in failures},
            untold=report.untold,
        )

    def run(self, stop: threading.Event) -> None:
        """The commands saw to it."""

    def close(self) -> None:
        """What the commands made stays."""

    def _begin(self) -> Ledger:
        if self._ledger is not None:
            return self._ledger
        ledger = ledgers.read(self._environment.run_dir)
        if not ledger.empty and not self._commands.does_the_same_as(ledger.commands):
            log.warning("other commands than before: what those did is undone")
            self._undo(ledger)
            ledger = Ledger()
        ledger.commands = self._commands
        if ledger.started is None and self._commands.pre_startup:
            log.info("PreStartupCommand")
            said = run_command(self._commands.pre_startup, {}, self._consent, timeout_s=STARTUP_S).strip()
            if len(said.encode()) > DATA_BYTES_AT_MOST:
                raise CommandFailed(f"PreStartupCommand printed more than {DATA_BYTES_AT_MOST} bytes for the lease")
            ledger.started = said
        self._ledger = ledger
        self._write()
        return ledger

    def _own_variables(self, own: Lease) -> dict[str, str]:
        networks = (str(self._environment.network.network(version) or "") for version in (4, 6))
        return {**dict(zip(OWN_VARIABLES, networks, strict=False)), **Told.of(own).variables()}

    def _serve(self, wanted: Mapping[str, Told]) -> tuple[int, dict[str, str]]:
        """Run what there is to run: how many commands did their work, and what keeps which peers from being served."""
        ledger = self._begin()
        todo = steps(ledger.peers, wanted)
        # A failure says nothing about anything but the same step.
        self._failed = {peer: failure for peer, failure in self._failed.items() if failure.step in todo}
        # Who failed or hung before comes last, and keeps nobody else waiting.
        todo = tuple(sorted(todo, key=lambda step: self._failed[step.peer].count if step.peer in self._failed else 0))
        ends = time.monotonic() + ROUND_S
        done, problems, announced = 0, {}, False
        for step in todo:
            failure = self._failed.get(step.peer)
            if failure is not None and time.monotonic() < failure.not_before:
                problems[step.peer] = failure.problem
            elif time.monotonic() > ends:
                problems[step.peer] = failure.problem if failure else f"{step.verb.value} waits for its turn"
            else:
                if step.verb is Verb.ADD and not announced:
                    self._announce(ledger, todo)
                    announced = True
                try:
                    self._take(ledger, step)
                    done += step.binding
                except CommandFailed as error:
                    problems[step.peer] = self._note_failure(step, error.message)
        if todo:
            self._write()
        if done:
            log.info("commands run", commands=done, failed=len(problems))
        return done, problems

    def _announce(self, ledger: Ledger, todo: Collection[Step]) -> None:
        """Put down what may be half done if we do not live to see the end of it: it is undone after the next start."""
        begun = {step.peer: Entry(told=step.told, settled=False) for step in todo if step.verb is Verb.ADD}
        ledgers.write(self._environment.run_dir, replace(ledger, peers={**ledger.peers, **begun}))

    def _take(self, ledger: Ledger, step: Step) -> None:
        if step.verb is Verb.ADD:
            ledger.peers[step.peer] = Entry(told=step.told, settled=False)
            run_command(self._commands.subnet_add, step.told.variables(), self._consent, data=step.told.data)
            ledger.peers[step.peer] = Entry(told=step.told, settled=True)
            return
        try:
            run_command(self._commands.subnet_remove, step.told.variables(), self._consent, data=step.told.data)
        except CommandFailed as error:
            if step.binding:
                raise
            log.debug("there was less to remove than was known", peer=step.told.name, problem=error.message)
        del ledger.peers[step.peer]

    def _note_failure(self, step: Step, problem: str) -> str:
        before = self._failed.get(step.peer)
        count = before.count + 1 if before else 1
        not_before = time.monotonic() + min(FIRST_RETRY_S * 2 ** (count - 1), LAST_RETRY_S)
        self._failed[step.peer] = _Failure(step, problem, count, not_before)
        if before is None or problem != before.problem:
            log.error(f"{step.verb.value} failed", peer=step.told.name, problem=problem)
        return problem

    def _look_for_devices(self, wanted: Mapping[str, Told]) -> None:
        """Note where the routes to peers lead, for the firewall. A few tell: peers differ little in that."""
        held = self._begin().peers
        for peer in [peer for peer in wanted if peer not in self._looked_at][:_LOOKED_AT]:
            if held.get(peer) != Entry(told=wanted[peer], settled=True):
                continue
            self._looked_at.add(peer)
            for subnet in (wanted[peer].subnet, wanted[peer].subnet6):
                name = _device_towards(subnet) if subnet else None
                if name and name not in self._devices:
                    self._devices.append(name)

    def _undo(self, ledger: Ledger) -> None:
        undo_and_say(ledger, self._consent)
        ledgers.write(self._environment.run_dir, Ledger())

    def _write(self) -> None:
        ledgers.write(self._environment.run_dir, self._begin())


def _too_talkative(peer: Lease) -> Reason | None:
    length = len(Told.of(peer).data)
    return ("its lease has {} characters of data", (length,)) if length > DATA_BYTES_AT_MOST else None


def _device_towards(subnet: str) -> str | None:
    answer = interfaces.route_to(ip_network(subnet)[1])
    try:
        return socket.if_indextoname(answer.ifindex) if answer else None
    except OSError:
        return None


BACKEND = Extension
