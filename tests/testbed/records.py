"""What tests tell the night's page beside passed and failed: which packets went, and what a fault cost.

A test takes pytest's fixture `record_property`. What it records goes into JUnit's XML as properties of the test, whose
values are JSON; tests/nightly reads them back.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

_ROOT = Path(__file__).resolve().parents[2]
Recorder = Callable[[str, object], None]
# The name of the property whose value is the folder with a failed test's logs.
LOGS = "logs"
# Fields of records are of these types; whole numbers are also good where any number is.
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


def tell_logs(folder: Path, *properties: list[tuple[str, object]]) -> None:
    """Write into the properties of a failed test, and of its report, where its logs are, as seen from the checkout."""
    place = folder.relative_to(_ROOT) if folder.is_relative_to(_ROOT) else folder
    for one in properties:
        one.append((LOGS, str(place)))


@dataclass(frozen=True, kw_only=True)
class _Record:
    PROPERTY: ClassVar[str]

    def record(self, to: Recorder) -> None:
        """Write it into the results of the test whose `record_property` is given."""
        to(self.PROPERTY, json.dumps(dataclasses.asdict(self), sort_keys=True))

    @classmethod
    def read(cls, text: str) -> Self:
        """What `record` wrote. Raises ValueError or TypeError for another text."""
        found = cls(**json.loads(text))
        for field in dataclasses.fields(found):
            if not isinstance(getattr(found, field.name), _TYPES[str(field.type)]):
                raise TypeError(f"{field.name} is {getattr(found, field.name)!r}, not of type {field.type}")
        return found


@dataclass(frozen=True, kw_only=True)
class Connection(_Record):
    """Packets that a container on one host sent to a container on another, and how many of them were not answered.

    `docker` and `kernel` are versions as the hosts tell them: "20.10.24", "6.12.48-cloud-amd64".
    """

    PROPERTY: ClassVar[str] = "connection"

    source: str
    target: str
    backend: str
    docker: str
    kernel: str
    sent: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class Fault(_Record):
    """What a fault cost: packets of those sent while it lasted and after, and the seconds until packets went again.

    `recovered_s` counts from when the fault ended, and of one that has no length from its first lost packet; 0 where no
    packet was lost.
    """

    PROPERTY: ClassVar[str] = "fault"

    fault: str
    backend: str
    sent: int
    lost: int
    recovered_s: float
