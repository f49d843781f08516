"""The order of faults in a drill, from a seed. Pure: the same seed and faults give the same plan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.testbed.netns.faults.fault import LabFault

# The longest pause between the starts of two faults, and how many there are at a time.
PAUSE_S = 4.0
AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Step:
    """The start or the end of a fault, `at_s` seconds after the drill began."""

    at_s: float
    fault: LabFault
    starts: bool


def plan(faults: Sequence[LabFault], seed: int, *, seconds: float, at_most: int | None = None) -> list[Step]:
    """Steps in their order for that many seconds, of the first `at_most` faults of that order alone if it is given.

    No two faults at a time take the same part of the lab. Each kind of fault comes about as often as each other one.
    """
    rng = random.Random(seed)
    steps: list[Step] = []
    running: list[tuple[float, LabFault]] = []
    now, begun, waiting = 0.0, 0, list[LabFault]()
    while now < seconds and (at_most is None or begun < at_most):
        running = [(until_s, fault) for until_s, fault in running if until_s > now]
        if not waiting:
            waiting = rng.sample(list(faults), len(faults))
        taken = {part for _until_s, fault in running for part in fault.takes}
        free = [fault for fault in waiting if not fault.takes & taken]
        if free and len(running) < AT_ONCE:
            fault = free[0]
            waiting.remove(fault)
            until_s = now + rng.uniform(*fault.lasts_s)
            running.append((until_s, fault))
            steps += [Step(at_s=now, fault=fault, starts=True), Step(at_s=until_s, fault=fault, starts=False)]
            begun += 1
        now += rng.uniform(0.2, PAUSE_S)
    return sorted(steps, key=lambda step: step.at_s)
