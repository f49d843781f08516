"""The catalogue of bases: each module in this folder is one, `centos_stream9.py` the base `centos-stream9`.

Such a module sets BASE. A base is listed, and can be chosen, as soon as its module is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from images.bases import mirrors
from images.bases.base import ROLES, Base
from images.engine.errors import BuildError

_FOLDER = Path(__file__).parent
# In the order of the alphabet; `bases` has them in the order of preference.
NAMES = tuple(sorted(path.stem.replace("_", "-") for path in _FOLDER.glob("*.py") if path.stem != "__init__"))


def get(name: str) -> Base:
    """The base of this name, with the mirrors that the environment and images/mirrors.toml name.

    Raises BuildError with the names there are, or naming what is wrong with an entry.
    """
    _require(name)
    return next(base for base in bases() if base.name == name)


def bases(mirror: Iterable[str] = (), *, wanted: str | None = None) -> tuple[Base, ...]:
    """All bases, the preferred one first. `mirror` are the words of `--mirror`, and `wanted` the base asked for.

    Raises BuildError.
    """
    if wanted is not None:
        _require(wanted)
    return mirrors.applied(_entries(), mirror, wanted=wanted)


def _require(name: str) -> None:
    if name not in NAMES:
        raise BuildError(f"there is no base {name!r}", hint=f"there are: {', '.join(base.name for base in _entries())}")


def _entries() -> list[Base]:
    """All bases as their modules have them, the preferred one first."""
    return sorted(map(_entry, NAMES), key=lambda base: (base.preference, base.name))


def _entry(name: str) -> Base:
    try:
        found = import_module(f"{__name__}.{name.replace('-', '_')}").BASE
    except (AttributeError, TypeError) as error:
        # It sets no BASE, or leaves out what every base has to say.
        raise BuildError(f"catalogue entry {name}: {error}") from error
    check(found, name)
    base: Base = found
    return base


def check(found: object, name: str) -> None:
    """Raises BuildError when an entry of the catalogue is not a base that could be built."""
    wrong = []
    if not isinstance(found, Base):
        raise BuildError(f"catalogue entry {name}: BASE is {type(found).__name__}, not a Base")
    if found.name != name:
        wrong.append(f"its name is {found.name!r}")
    wrong += [f"no packages for the role {role!r}" for role in ROLES if role not in {*found.packages, *found.lacks}]
    wrong += [f"unknown role {role!r}" for role in sorted({*found.packages, *found.enable} - {*ROLES})]
    wrong += [f"role {role!r} has packages, and a reason to lack it" for role in {*found.packages} & {*found.lacks}]
    wrong += [f"{r.name}: there is no site {r.site!r}" for r in found.repositories if r.site not in found.sites]
    wrong += [f"{r.name}: its URL is {r.url!r}" for r in found.repositories if "://" not in r.url]
    wrong += [
        f"{r.name}: the fingerprint of its key is {r.key_fingerprint!r}, not 40 hexadecimal digits"
        for r in found.repositories
        if len(r.key_fingerprint) != 40 or not set(r.key_fingerprint) <= set("0123456789ABCDEF")
    ]
    if not found.rpm_dbpath.startswith("/"):
        wrong.append(f"rpm_dbpath is {found.rpm_dbpath!r}, not an absolute path")
    if wrong:
        raise BuildError(f"catalogue entry {name}: {'; '.join(wrong)}")
