"""What a fault costs: echoes between containers while it lasts, the lost ones, and when the last of them was sent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.testbed.netns.faults.echoes import ANSWERED_S, Echo, Echoes, echoing
from tests.testbed.netns.lab import Host
from tests.testbed.records import Fault, Recorder


@dataclass(kw_only=True)
class Cost:
    """Filled in when the block of `cost_of` ends. In it, `over` is called when the fault ends. Times are monotonic."""

    echoes: Echoes
    lost: list[Echo] = field(default_factory=list)
    _over_at: float | None = None

    def over(self) -> None:
        """The fault ends now."""
        self._over_at = time.monotonic()

    @property
    def sent(self) -> int:
        """How many echoes were sent."""
        return sum(self.echoes.sent.values())

    @property
    def recovered_s(self) -> float:
        """The seconds from the end of the fault until packets went again."""
        if not self.lost or self._over_at is None:
            return 0.0
        return max(0.0, self.lost[-1].at - self._over_at)

    def lost_between(self, *hosts: Host) -> list[Echo]:
        """The lost echoes from one of these hosts to another one."""
        names = {host.name for host in hosts}
        return [echo for echo in self.lost if {echo.source, echo.target} <= names]


@contextmanager
def cost_of(fault: str, backend: str, hosts: Iterable[Host], record: Recorder) -> Iterator[Cost]:
    """Send echoes between the containers of these hosts for as long as the block lasts, and record what was lost."""
    with echoing() as echoes:
        for host in hosts:
            echoes.add(host)
        cost = Cost(echoes=echoes)
        yield cost
        # What is sent from here on is answered before the sockets are closed, or it is not told.
        time.sleep(ANSWERED_S)
        cost.lost = sorted(echoes.lost(), key=lambda echo: echo.at)
    Fault(
        fault=fault, backend=backend, sent=cost.sent, lost=len(cost.lost), recovered_s=round(cost.recovered_s, 1)
    ).record(record)
