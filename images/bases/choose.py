"""Chooses the base: the one asked for, else the one built last, else the first whose repositories answer."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from images.bases import mirror_probe
from images.bases.base import Base
from images.engine import files
from images.engine.errors import BaseUnreachable, BuildError

TIMEOUT_S = 3.0
REMEMBERED = "base.json"
_HERE = "its packages are here"
# cgroup(7): this file is at the root of v2.
_V2 = "cgroup.controllers"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Whether a base can be built on this machine. `why` names the hosts that answered, or the first that did not."""

    base: str
    ok: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The base to build, and in a few words why."""

    base: Base
    why: str


def choose(
    bases: Sequence[Base], build: Path, *, wanted: str | None, fetched: Iterable[str] = (), again: bool = False
) -> Choice:
    """The base to build. `fetched` are the names of bases whose packages were fetched: they need no network.

    The base `wanted` is taken; where its packages were not fetched, its repositories must answer. Without `wanted` the
    base of the last build is taken, if its packages were fetched and `again` is not set. Else the repositories of all
    bases are asked at the same time, and the preferred one of those that answer is taken. Raises BaseUnreachable, which
    names the host that did not answer and the bases that can be built.
    """
    by_name = {base.name: base for base in bases}
    here = set() if again else set(fetched)
    if wanted is not None:
        base = by_name.get(wanted)
        if base is None:
            raise BuildError(f"there is no base {wanted!r}", hint=f"there are: {', '.join(by_name)}")
        if wanted not in here:
            answers = answers_of(bases, here)
            if not answers[wanted].ok:
                raise BaseUnreachable(f"base {wanted}: {answers[wanted].why}", hint=_would_work(answers))
        return Choice(base=base, why="asked for")
    return by_default(bases, build, fetched=here)


def by_default(
    bases: Sequence[Base], build: Path, *, fetched: Iterable[str], answers: Mapping[str, Answer] | None = None
) -> Choice:
    """The base to build when none is asked for. `answers` are those of all bases, if they were asked before.

    Raises BaseUnreachable.
    """
    here = set(fetched)
    by_name = {base.name: base for base in bases}
    before = recall(build)
    if before in by_name and before in here:
        return Choice(base=by_name[before], why=f"{_HERE}; --again asks all repositories anew")
    # A base that lacks an image is taken only when it is named.
    candidates = [base for base in bases if not base.lacks]
    found = answers or answers_of(candidates, here)
    for base in candidates:
        if found[base.name].ok:
            refused = [f"{one.name}: {found[one.name].why}" for one in candidates if not found[one.name].ok]
            return Choice(base=base, why="; ".join([found[base.name].why, *refused]))
    raise BaseUnreachable(
        "no base can be built from here:\n" + "\n".join(f"  {one.name}: {found[one.name].why}" for one in candidates),
        hint="see that one of these hosts can be reached, or set a mirror (images/README.md)",
    )


def answers_of(bases: Sequence[Base], fetched: Iterable[str]) -> dict[str, Answer]:
    """Whether each base can be built here: its packages were fetched, or its repositories answer."""
    here = {name: Answer(base=name, ok=True, why=_HERE) for name in fetched}
    return here | ask([base for base in bases if base.name not in here])


def ask(bases: Sequence[Base], timeout_s: float = TIMEOUT_S) -> dict[str, Answer]:
    """Whether the repositories of each base answer. All are asked at once: it takes little longer than `timeout_s`."""
    questions: dict[str, tuple[str, ...]] = {}
    answers: dict[str, Answer] = {}
    for base in bases:
        try:
            questions[base.name] = base.questions(base)
        except BuildError as error:
            answers[base.name] = Answer(base=base.name, ok=False, why=error.message)
    urls = sorted({url for asked in questions.values() for url in asked})
    with ThreadPoolExecutor(max_workers=max(1, len(urls))) as pool:
        found = dict(zip(urls, pool.map(lambda url: mirror_probe.problem(url, timeout_s), urls), strict=True))
    for name, asked in questions.items():
        answers[name] = _answer(name, asked, found)
    return {base.name: answers[base.name] for base in bases}


def unbootable(base: Base, cgroup: Path = Path("/sys/fs/cgroup")) -> str | None:
    """Why containers of a base do not boot on this machine; None when they do. `cgroup` is the mount of cgroups."""
    if cgroup_folder(base, cgroup) is not None:
        return None
    here = 2 if (cgroup / _V2).exists() else 1
    able = " or ".join(f"v{version}" for version in base.cgroups)
    return (
        f"this machine has cgroup v{here}, and the systemd of {base.title} boots on {able}: "
        "its images are for virtual machines, and for other machines"
    )


def cgroup_folder(base: Base, cgroup: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """The folder that a container of a base has to have at /sys/fs/cgroup to boot; None where it does not boot.

    A hybrid machine, which counts as v1, has v2 one level down. A systemd that boots on v2 only is shown that half.
    """
    half = cgroup / "unified"
    if (cgroup / _V2).exists():
        return cgroup if 2 in base.cgroups else None
    if 1 in base.cgroups:
        return cgroup
    return half if (half / _V2).exists() else None


def recall(build: Path) -> str | None:
    """The base that was chosen last; None when no record can be read."""
    try:
        found = json.loads((build / REMEMBERED).read_text())["base"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def remember(build: Path, base: Base) -> None:
    """Record a choice for `recall`."""
    files.write(build / REMEMBERED, json.dumps({"base": base.name}) + "\n")


def _answer(name: str, asked: Sequence[str], found: Mapping[str, str | None]) -> Answer:
    wrong = next((found[url] for url in asked if found[url]), None)
    if wrong:
        return Answer(base=name, ok=False, why=wrong)
    hosts = sorted({urllib.parse.urlsplit(url).netloc or "its folder" for url in asked})
    return Answer(base=name, ok=True, why=f"{' and '.join(hosts)} answers" if len(hosts) == 1 else "all hosts answer")


def _would_work(answers: Mapping[str, Answer]) -> str:
    names = [answer.base for answer in answers.values() if answer.ok]
    return f"these bases would work here: {', '.join(names)}" if names else "no other base would work here either"
