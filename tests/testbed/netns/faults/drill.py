"""Carries out a plan of faults, and watches all along what has to hold; what did not is said with the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from overlayd.errors import CommandFailed
from tests.testbed.netns.families import all_reach
from tests.testbed.netns.faults import foreign, power, subnets
from tests.testbed.netns.faults.echoes import Echo, Echoes
from tests.testbed.netns.faults.fault import LabFault
from tests.testbed.netns.faults.plan import Step
from tests.testbed.netns.lab import Host, Lab
from tests.testbed.polling import eventually

# How long after a fault packets may still be lost that it touched. Two cores carry all hosts, and other tests.
HEALED_WITHIN_S = 20.0
# How long after the last fault all hosts may need to be ready, and how long a fault waits that needs them ready.
READY_WITHIN_S = 90.0
# What was sent so short a time before a fault can be lost by it.
_UNDER_WAY_S = 0.5
_LOOK_S = 1.5


@dataclass(kw_only=True)
class Disturbance:
    """A fault that was started, and when it was over. Times are monotonic, in seconds."""

    fault: LabFault
    began: float
    stopped: float | None = None
    healed: float | None = None

    def excuses(self, echo: Echo) -> bool:
        """Whether that echo may have been lost by it."""
        until = float("inf") if self.healed is None else self.healed + HEALED_WITHIN_S
        return self.fault.may_break(echo.source, echo.target) and self.began - _UNDER_WAY_S <= echo.at <= until


@dataclass(kw_only=True)
class Drill:
    """One drill in a lab. `journal` has each step, and `broken` each rule that did not hold, with their times."""

    lab: Lab
    hosts: Sequence[Host]
    echoes: Echoes
    journal: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    lost: int = 0
    recovered_s: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _late_s: float = 0.0
    _disturbances: list[Disturbance] = field(default_factory=list)
    _planted: dict[str, str] = field(default_factory=dict)

    def run(self, steps: Sequence[Step]) -> None:
        """Carry out the steps in their order, then wait until all is whole. AssertionError where a rule was broken.

        Before the first one, wait until all is whole too.
        """
        eventually("all hosts are ready", self._all_ready, timeout_s=READY_WITHIN_S)
        eventually("all pairs reach each other", self._all_reach, timeout_s=READY_WITHIN_S)
        for host in self.hosts:
            self.echoes.add(host)
        self._planted = {host.name: foreign.seen(host) for host in self.hosts}
        self._began = time.monotonic()
        try:
            with self._watched():
                for step in steps:
                    self._wait(step)
                    if self.broken:
                        break
                    self._carry_out(step)
                if not self.broken:
                    self._recover()
        except Exception as error:
            self._break(f"{type(error).__name__}: {error}")
        assert not self.broken, "\n".join(["rules that were broken:", *self.broken[:20], "steps:", *self.journal])

    def _wait(self, step: Step) -> None:
        """Wait until a step is due, and may be taken."""
        while time.monotonic() < self._began + self._late_s + step.at_s and not self.broken:
            self._heal()
            time.sleep(0.1)
        if step.fault.settled:
            before = time.monotonic()
            eventually(f"all are ready for: {step.fault.name}", self._all_ready, timeout_s=READY_WITHIN_S)
            # Those that come after keep their distance.
            self._late_s += time.monotonic() - before

    def _carry_out(self, step: Step) -> None:
        self._note(f"{'starts' if step.starts else 'ends  '}  {step.fault.name}")
        if step.starts:
            self._disturbances.append(Disturbance(fault=step.fault, began=time.monotonic()))
            step.fault.start()
            return
        step.fault.stop()
        (one,) = (one for one in self._disturbances if one.fault is step.fault and one.stopped is None)
        one.stopped = time.monotonic()

    def _heal(self) -> bool:
        """Note which faults have healed. Whether all have that were ended."""
        for one in self._disturbances:
            if one.stopped is not None and one.healed is None and one.fault.healed():
                one.healed = time.monotonic()
        return all(one.healed is not None for one in self._disturbances if one.stopped is not None)

    def _recover(self) -> None:
        """Wait until all hosts are ready and all containers reach each other, and a while longer."""
        over = time.monotonic()
        eventually("all hosts are ready after the last fault", self._all_ready, timeout_s=READY_WITHIN_S)
        left_s = max(1.0, over + READY_WITHIN_S - time.monotonic())
        eventually("all pairs reach each other after the last fault", self._all_reach, timeout_s=left_s)
        self.recovered_s = time.monotonic() - over
        self._note(f"all is whole again after {self.recovered_s:.1f} s")
        # What is lost from now on is told after the echoes' own time.
        time.sleep(5)

    def _all_ready(self) -> bool:
        return self._heal() and all(power.is_ready(host) for host in self.hosts)

    def _all_reach(self) -> bool:
        return all_reach(*self.hosts)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Watch in a thread for the length of the block."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_LOOK_S):
                try:
                    self._look()
                except Exception as error:
                    self._break(f"the watch ended: {type(error).__name__}: {error}")
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._look()

    def _look(self) -> None:
        for lost in self.echoes.lost():
            self.lost += 1
            if not any(one.excuses(lost) for one in self._disturbances):
                self._break(f"{lost}: a packet was lost that was sent at {lost.at - self._began:.1f} s")
        for sentence in (
            *subnets.held_twice(subnets.in_etcd(self.lab.etcd)),
            *subnets.held_twice(subnets.in_kernels(self.lab.hosts)),
        ):
            self._break(sentence)
        for host in self.hosts:
            self._compare(host)

    def _compare(self, host: Host) -> None:
        """Compare what others have on a host with what they had, while the host has power."""
        namespace = host.namespace
        if any(one.healed is None and one.fault.name == power.name(host) for one in self._disturbances):
            return
        try:
            now = foreign.seen(host)
        except CommandFailed as error:
            # It may have lost its power meanwhile.
            if not any(one.fault.name == power.name(host) for one in self._disturbances if one.healed is None):
                self._break(f"what others have on {host.name} cannot be seen: {error}")
            return
        if now != self._planted[host.name] and host.namespace == namespace:
            lines = set(now.splitlines()) ^ set(self._planted[host.name].splitlines())
            self._break(f"what others have on {host.name} was changed: {sorted(lines)}")

    def _note(self, text: str) -> None:
        self.journal.append(f"{time.monotonic() - self._began:7.1f} s  {text}")

    def _break(self, text: str) -> None:
        self.broken.append(f"{time.monotonic() - self._began:7.1f} s  {text}")
        self._note(f"BROKEN  {text}")
