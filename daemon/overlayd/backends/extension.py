"""flannel's extension backend: commands of the network config make the data path.

It differs from flannel's: commands are run only for peers that differ from the record of earlier runs, failed commands
are run again, each has a time limit, and in the end everything is undone. What the commands made cannot be read back
from the kernel, so damage to it is not noticed; `overlayd cleanup` and a start run all of them anew.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, ClassVar, Self

from overlayd.backends import ledger as ledgers
from overlayd.backends.allowed_commands import SETTING, AllowedCommands
from overlayd.backends.commands import (
    OWN_VARIABLES,
    PEER_VARIABLES,
    Commands,
    CommandStep,
    HostVariables,
    PeerCommand,
    PeerRecord,
    check,
    steps,
)
from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts, Key
from overlayd.backends.ledger import Ledger
from overlayd.backends.listening import Listening
from overlayd.backends.options import Options
from overlayd.backends.peers import Reason
from overlayd.backends.undo import run_command, undo_and_log
from overlayd.backends.wire import Wire
from overlayd.errors import CommandFailed, NetworkConfigError
from overlayd.kernel import interfaces
from overlayd.kernel.converge import ConvergeReport, Plan, converge, require
from overlayd.leases.lease import Lease
from overlayd.lib.log import logger
from overlayd.lib.quick_dataclass import dataclass

log = logger("extension")

STARTUP_S = 30.0
# For the commands of one reconciliation. The others wait for the next one: the daemon has other work, and must be able
# to stop.
ROUND_S = 5.0
FIRST_RETRY_S, LAST_RETRY_S = 5.0, 60.0
# etcd takes values of up to 1.5 MB, and every host reads the lease of every other.
DATA_BYTES_AT_MOST = 64 * 1024
_LOOKED_UP_AT_MOST = 16


@dataclass(frozen=True)
class _Failure:
    """A step that failed `count` times, its last message, and when it may be tried again, on the monotonic clock."""

    step: CommandStep
    problem: str
    count: int
    not_before: float


class Extension:
    """The extension backend on one host."""

    facts: ClassVar[BackendFacts] = BackendFacts(
        name="extension",
        published_as="extension",
        summary="Commands make the data path: programs in the folder that OVERLAYD_EXTENSION_COMMANDS names on each "
        "host, given by their absolute paths. A host that names no folder, or another one, does not join the network, "
        "and reports that. A running daemon neither changes to this backend nor takes other commands: `systemctl "
        "restart overlayd` does. Commands are run without a shell, with the rights of overlayd.service, for at most 10 "
        "seconds (the first two: 30); once a boot for each peer or subnet, and again where they failed. $SUBNET, "
        "$IPV6SUBNET, $PUBLIC_IP and $PUBLIC_IPV6 are the peer's, in the command's words and in its environment; a "
        "peer's lease data is on standard input. The MTU of containers is the underlay's.",
        keys=(
            Key(
                name="PreStartupCommand",
                help="Run before a subnet is leased. What it prints is the lease's data.",
                default="",
            ),
            Key(
                name="PostStartupCommand",
                help="Run with the leased subnet; the variables are this host's, and $NETWORK.",
                default="",
            ),
            Key(
                name="SubnetAddCommand",
                help="Run for each peer.",
                default="",
            ),
            Key(
                name="SubnetRemoveCommand",
                help="Run for a peer that left or changed, and by `overlayd cleanup`.",
                default="",
            ),
            Key(
                name="ShutdownCommand",
                help="Undoes the first two. flannel has none, and leaves the key alone.",
                default="",
            ),
        ),
        ipv6=True,
        overhead_bytes=None,
        carrier=None,
        device_kind=None,
        host_answers=False,
        one_route=False,
        runs_commands=True,
        notified=False,
    )

    def __init__(self, environment: Environment, commands: Commands) -> None:
        """Values only; the first command is run by `lease_data`."""
        self._environment = environment
        self._commands = commands
        # While a config is only being checked, no command may run.
        self._allowed = environment.allowed_commands or AllowedCommands()
        self._ledger: Ledger | None = None
        self._devices = [environment.underlay.ifname]
        self._failed: dict[str, _Failure] = {}
        self._looked_up: set[str] = set()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: flannel's four commands, and ShutdownCommand, which undoes the first two."""
        options = Options(cls.facts, config)
        known = ((), OWN_VARIABLES, PEER_VARIABLES, PEER_VARIABLES, OWN_VARIABLES)
        pre, post, add, remove, shutdown = (
            check(key, options.text(key), names) for key, names in zip(cls.facts.key_names, known, strict=True)
        )
        for command in (pre, post, add, remove, shutdown) if environment.allowed_commands else ():
            refusal = environment.allowed_commands.refusal(command) if environment.allowed_commands else None
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
        """Nothing that is known here; the commands have to open what they need in a firewall."""
        return ()

    def lease_data(self, version: int) -> str | None:  # noqa: ARG002  (one text for both)
        """What PreStartupCommand printed. It is run once a boot. Raises CommandFailed."""
        ledger = self._begin()
        return ledger.started if self._commands.pre_startup else None

    def wire(self, version: int) -> Wire | None:  # noqa: ARG002
        """None: see Backend."""
        return None

    def open(self, own: Lease) -> None:
        """Run PostStartupCommand, once a boot for one subnet. Raises CommandFailed, KernelRefused."""
        require(Plan(base=self._environment.base(own)))
        ledger, variables = self._begin(), self._own_variables(own)
        if ledger.own is not None and ledger.own != variables:
            log.warning(
                "this host has another subnet or address: what the commands set up is undone and done anew",
                subnet=own.subnets,
            )
            published = ledger.started
            self._undo(ledger)
            self._ledger = None
            ledger = self._begin()
            if ledger.started != published:
                raise CommandFailed(
                    "PreStartupCommand printed other data than the lease has; the lease is written anew"
                )
        if ledger.own is None:
            if self._commands.post_startup:
                log.info("PostStartupCommand", subnet=own.subnets)
                run_command(self._commands.post_startup, variables, self._allowed, timeout_s=STARTUP_S)
            ledger.own = variables
            self._write()

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """See Backend. Runs commands for peers that differ, for at most ROUND_S; peers that still wait are problems."""
        selected = self._environment.select_peers(peers, own=own, backend_type=self.facts.name, usable=_too_much_data)
        desired = {peer.key_name: HostVariables.of(peer) for peer in selected.served}
        report = converge(
            Plan(base=self._environment.base(own), problems=selected.problems, unlisted=selected.unlisted)
        )
        run, failures = self._serve(desired)
        self._look_for_devices(desired)
        return ConvergeReport(
            written=report.written + run,
            problems=report.problems,
            peer_problems={**report.peer_problems, **failures},
            paths={peer: self.facts.name for peer in desired if peer not in failures},
            unlisted=report.unlisted,
        )

    def run(self, stop: threading.Event) -> None:
        """The commands made the data path; this process carries nothing."""

    def close(self) -> None:
        """What the commands made stays."""

    def _begin(self) -> Ledger:
        if self._ledger is not None:
            return self._ledger
        ledger = ledgers.read(self._environment.run_dir)
        if not ledger.empty and not self._commands.does_the_same_as(ledger.commands):
            log.warning("the network config has other commands than before: what those set up is undone")
            self._undo(ledger)
            ledger = Ledger()
        ledger.commands = self._commands
        if ledger.started is None and self._commands.pre_startup:
            log.info("PreStartupCommand")
            printed = run_command(self._commands.pre_startup, {}, self._allowed, timeout_s=STARTUP_S).strip()
            if len(printed.encode()) > DATA_BYTES_AT_MOST:
                raise CommandFailed(f"PreStartupCommand printed more than {DATA_BYTES_AT_MOST} bytes for the lease")
            ledger.started = printed
        self._ledger = ledger
        self._write()
        return ledger

    def _own_variables(self, own: Lease) -> dict[str, str]:
        networks = (str(self._environment.network.network(version) or "") for version in (4, 6))
        return {**dict(zip(OWN_VARIABLES, networks, strict=False)), **HostVariables.of(own).variables()}

    def _serve(self, desired: Mapping[str, HostVariables]) -> tuple[int, dict[str, str]]:
        """Run what differs from the ledger. Returns how many commands succeeded, and problems by peer."""
        ledger = self._begin()
        todo = steps(ledger.peers, desired)
        # A failure counts against a repetition of the same step only.
        self._failed = {peer: failure for peer, failure in self._failed.items() if failure.step in todo}
        # Steps that failed or hung before come last, so that no other peer waits for them.
        todo = tuple(sorted(todo, key=lambda step: self._failed[step.peer].count if step.peer in self._failed else 0))
        ends = time.monotonic() + ROUND_S
        done, problems, recorded = 0, {}, False
        for step in todo:
            failure = self._failed.get(step.peer)
            if failure is not None and time.monotonic() < failure.not_before:
                problems[step.peer] = failure.problem
            elif time.monotonic() > ends:
                problems[step.peer] = failure.problem if failure else f"{step.verb.value} waits for its turn"
            else:
                if step.verb is PeerCommand.ADD and not recorded:
                    self._record_begun(ledger, todo)
                    recorded = True
                try:
                    self._run_step(ledger, step)
                    done += step.binding
                except CommandFailed as error:
                    problems[step.peer] = self._note_failure(step, error.message)
        if todo:
            self._write()
        if done:
            log.info("commands run", commands=done, failed=len(problems))
        return done, problems

    def _record_begun(self, ledger: Ledger, todo: Collection[CommandStep]) -> None:
        """Record the additions that are about to begin: if the daemon dies meanwhile, the next one undoes them."""
        begun = {step.peer: PeerRecord(host=step.host, settled=False) for step in todo if step.verb is PeerCommand.ADD}
        ledgers.write(self._environment.run_dir, replace(ledger, peers={**ledger.peers, **begun}))

    def _run_step(self, ledger: Ledger, step: CommandStep) -> None:
        if step.verb is PeerCommand.ADD:
            ledger.peers[step.peer] = PeerRecord(host=step.host, settled=False)
            run_command(self._commands.subnet_add, step.host.variables(), self._allowed, data=step.host.data)
            ledger.peers[step.peer] = PeerRecord(host=step.host, settled=True)
            return
        try:
            run_command(self._commands.subnet_remove, step.host.variables(), self._allowed, data=step.host.data)
        except CommandFailed as error:
            if step.binding:
                raise
            log.debug(
                "the command that removes a peer failed, which is expected of a peer not known to be set up",
                peer=step.host.name,
                problem=error.message,
            )
        del ledger.peers[step.peer]

    def _note_failure(self, step: CommandStep, problem: str) -> str:
        before = self._failed.get(step.peer)
        count = before.count + 1 if before else 1
        not_before = time.monotonic() + min(FIRST_RETRY_S * 2 ** (count - 1), LAST_RETRY_S)
        self._failed[step.peer] = _Failure(step, problem, count, not_before)
        if before is None or problem != before.problem:
            log.error(f"{step.verb.value} failed", peer=step.host.name, problem=problem)
        return problem

    def _look_for_devices(self, desired: Mapping[str, HostVariables]) -> None:
        """Note the interfaces of the routes to peers, for the firewall; of a few peers only, as they seldom differ."""
        held = self._begin().peers
        for peer in [peer for peer in desired if peer not in self._looked_up][:_LOOKED_UP_AT_MOST]:
            if held.get(peer) != PeerRecord(host=desired[peer], settled=True):
                continue
            self._looked_up.add(peer)
            for subnet in (desired[peer].subnet, desired[peer].subnet6):
                name = _device_towards(subnet) if subnet else None
                if name and name not in self._devices:
                    self._devices.append(name)

    def _undo(self, ledger: Ledger) -> None:
        undo_and_log(ledger, self._allowed)
        ledgers.write(self._environment.run_dir, Ledger())

    def _write(self) -> None:
        ledgers.write(self._environment.run_dir, self._begin())


def _too_much_data(peer: Lease) -> Reason | None:
    length = len(HostVariables.of(peer).data)
    return ("its lease has {} characters of data", (length,)) if length > DATA_BYTES_AT_MOST else None


def _device_towards(subnet: str) -> str | None:
    answer = interfaces.route_to(ip_network(subnet)[1])
    try:
        return socket.if_indextoname(answer.ifindex) if answer else None
    except OSError:
        return None


BACKEND = Extension
