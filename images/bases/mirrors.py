"""Mirrors: other places for a base's packages, from the command line, the environment, or images/mirrors.toml.

A mirror replaces a site (`centos`, `docker`, `debian` …: the folder above all its repositories) or one repository
(`BaseOS`, `docker-ce` …: the folder that holds its repodata/). In its URL `$releasever`, `$basearch` and `$repo` mean
what they mean in yum's configuration. A site's URL with `$repo` in it is the whole URL of each of its repositories, as
a compose needs it. The command line wins over the environment, the environment over the file, the file over the
catalogue. The mirror of a repository wins over that of its site, wherever each was given.

Where packages come from makes no difference to what is built: signatures and checksums are the same everywhere.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path

from images.bases.base import Base, Repository
from images.engine.errors import BuildError

FILE = Path(__file__).resolve().parents[1] / "mirrors.toml"
ARCH = "x86_64"
_SCHEMES = ("http", "https", "file")
_NAMED = re.compile(r"(?P<name>[A-Za-z][\w.-]*)=(?P<url>.*)", re.DOTALL)
_PLACEHOLDERS = ("releasever", "basearch", "repo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror:
    """A URL given for a site or a repository. `where` says where it was given; `key_url` leads to the public key."""

    url: str | None
    where: str
    key_url: str | None = None


def variable(site: str) -> str:
    """The environment variable that names a site's mirror: OVERLAYD_CENTOS_MIRROR."""
    return f"OVERLAYD_{site.upper().replace('-', '_')}_MIRROR"


def applied(
    bases: Iterable[Base],
    words: Iterable[str] = (),
    *,
    wanted: str | None = None,
    environment: Mapping[str, str] = os.environ,
    file: Path = FILE,
) -> tuple[Base, ...]:
    """The bases with the mirrors that were given.

    `words` are those of `--mirror`: a URL, which is for the main site of the base `wanted`, or NAME=URL. Raises
    BuildError for a word that is no URL, and for a name that the wanted base, or every base, lacks.
    """
    bases = tuple(bases)
    said = _words(words, bases, wanted)
    tables = _read(file, bases)
    return tuple(_with(base, _given(base, wanted, said, environment, tables.get(base.name, {}))) for base in bases)


def _words(words: Iterable[str], bases: tuple[Base, ...], wanted: str | None) -> dict[str, Mirror]:
    """Mirrors of the command line by name; the empty name is the wanted base's main site."""
    asked = [base for base in bases if base.name == wanted]
    known = sorted({name for base in asked or bases for name in _names(base)})
    found: dict[str, Mirror] = {}
    for word in words:
        named = _NAMED.fullmatch(word)
        name, url = (named["name"], named["url"]) if named else ("", word)
        where = f"--mirror {word}"
        if named and name not in known:
            raise BuildError(
                f"{where}: {wanted or 'no base'} has {'no' if wanted else 'a'} site or repository {name!r}",
                hint=f"there are: {', '.join(known)}",
            )
        if not named and not asked:
            raise BuildError(
                f"{where}: it is not said for which site", hint="name a base (--base), or the site: --mirror NAME=URL"
            )
        if name in found:
            raise BuildError(f"{where}: a mirror for {name or 'the base'} was given before")
        found[name] = Mirror(url=_checked(url, where), where=where)
    return found


def _given(
    base: Base,
    wanted: str | None,
    said: Mapping[str, Mirror],
    environment: Mapping[str, str],
    table: Mapping[str, Mirror],
) -> dict[str, Mirror]:
    found = dict(table)
    for site in base.sites:
        value = environment.get(variable(site))
        if value:
            where = variable(site)
            found[site] = _over(found.get(site), Mirror(url=_checked(value, where), where=where))
    main = next(iter(base.sites))
    for name, mirror in said.items():
        place = name or (main if base.name == wanted else "")
        if place in _names(base):
            found[place] = _over(found.get(place), mirror)
    return found


def _over(below: Mirror | None, above: Mirror) -> Mirror:
    """Two mirrors for one name: `above` wins; the place of the key may be given by either."""
    return above if below is None else dataclasses.replace(above, key_url=above.key_url or below.key_url)


def _with(base: Base, given: Mapping[str, Mirror]) -> Base:
    places = {name: _filled(mirror.url, base) for name, mirror in given.items() if mirror.url is not None}
    repositories = tuple(_placed(repository, base, given) for repository in base.repositories)
    return dataclasses.replace(base, mirrors=places, repositories=repositories)


def _placed(repository: Repository, base: Base, given: Mapping[str, Mirror]) -> Repository:
    site, own = given.get(repository.site), given.get(repository.name)
    url, key_url = repository.url, repository.key_url
    if site is not None:
        key_url = site.key_url or key_url
        if site.url is not None:
            whole = "$repo" in site.url or "${repo}" in site.url
            url = _filled(site.url, base, repository) if whole else f"{site.url.rstrip('/')}/{repository.path}"
    if own is not None:
        key_url = own.key_url or key_url
        url = own.url or url
    return dataclasses.replace(repository, url=_filled(url, base, repository), key_url=key_url)


def _filled(url: str, base: Base, repository: Repository | None = None) -> str:
    values = {"releasever": base.releasever, "basearch": ARCH}
    if repository is not None:
        values["repo"] = repository.name
    for name, value in values.items():
        url = url.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return url


def _checked(url: str, where: str) -> str:
    if wrong := _wrong(url):
        raise BuildError(
            f"{where}: {url!r} {wrong}", hint="a mirror is http://HOST/PATH, https://HOST/PATH or file:///FOLDER"
        )
    return url


def _wrong(url: str) -> str | None:
    try:
        parts = urllib.parse.urlsplit(url)
        named = parts.hostname
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme not in _SCHEMES or "://" not in url:
        return "is no URL"
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path.startswith("/")):
        return "names no folder of this machine"
    if parts.scheme != "file" and not named:
        return "names no host"
    if re.search(r"\s", url):
        return "has a blank in it"
    unknown = sorted(set(re.findall(r"\$\{?(\w+)", url)) - {*_PLACEHOLDERS})
    return f"has ${unknown[0]} in it, and only ${', $'.join(_PLACEHOLDERS)} are known" if unknown else None


def _names(base: Base) -> tuple[str, ...]:
    return (*base.sites, *(repository.name for repository in base.repositories))


def _read(file: Path, bases: tuple[Base, ...]) -> dict[str, dict[str, Mirror]]:
    """Mirrors by base and name. Raises BuildError naming the file, the table and the key."""
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"{file}: {error}") from error
    by_name = {base.name: base for base in bases}
    found: dict[str, dict[str, Mirror]] = {}
    for name, table in content.items():
        where = f"{file}: [{name}]"
        if name not in by_name:
            raise BuildError(f"{where}: there is no such base", hint=f"there are: {', '.join(by_name)}")
        if not isinstance(table, dict):
            raise BuildError(f"{file}: {name}: a base is a table, [{name}], not {_kind(table)}")
        known = _names(by_name[name])
        for key in table:
            if key not in known:
                raise BuildError(
                    f"{where}: {key}: there is no such site or repository", hint=f"there are: {', '.join(known)}"
                )
        found[name] = {key: _entry(value, f"{where}: {key}") for key, value in table.items()}
    return found


def _entry(value: object, where: str) -> Mirror:
    if isinstance(value, str):
        return Mirror(url=_checked(value, where), where=where)
    if not isinstance(value, dict):
        raise BuildError(f"{where}: a URL in quotes, or {{url = …, key = …}}, not {_kind(value)}")
    for key, one in value.items():
        if key not in ("url", "key"):
            raise BuildError(f"{where}: {key}: unknown", hint="there are: url, key")
        if not isinstance(one, str):
            raise BuildError(f"{where}: {key}: a URL in quotes, not {_kind(one)}")
    urls = {key: _checked(one, f"{where}: {key}") for key, one in value.items()}
    return Mirror(url=urls.get("url"), key_url=urls.get("key"), where=where)


def _kind(value: object) -> str:
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list", str: "a text"}
    return names.get(type(value), "a table" if isinstance(value, dict) else type(value).__name__)
