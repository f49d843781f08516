"""What others configure dockerd with on this host: docker.service with its drop-ins and variables, and daemon.json.

The files are read, systemd is not asked: this runs while docker.service starts, and on hosts without systemd.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from overlayd.docker import flags as docker_flags
from overlayd.docker.flags import Flag
from overlayd.lib import envfile, unit_files
from overlayd.lib.files import read_json
from overlayd.lib.kept import Kept, identities
from overlayd.lib.quick_dataclass import dataclass

UNIT = "docker.service"
DAEMON_JSON = Path("/etc/docker/daemon.json")
# The variable with overlayd's own options; it is left out of what others configure.
VARIABLE = "OVERLAYD_DOCKER_OPTIONS"
# All is read this often, in seconds, also where no file looks changed.
ALL_S = 30.0
_WILD = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class DockerdConfig:
    """dockerd's options by others: `flags` on docker.service's command line, `daemon_json` in the configuration `file`.

    `daemon_json` is None, and `problems` say why, where the file cannot be used. `has_variable`: the unit has VARIABLE
    on its command line without the generator's drop-in, because somebody wrote it there. `consulted` are the paths on
    which all of this depends.
    """

    flags: Mapping[str, Flag] = field(default_factory=dict)
    file: Path = DAEMON_JSON
    daemon_json: Mapping[str, Any] | None = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    has_variable: bool = False
    consulted: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Flags and daemon.json together, by their names in daemon.json."""
        found: dict[str, Any] = {name: _json_value(flag.value) for name, flag in self.flags.items()}
        return {**found, **(self.daemon_json or {})}

    def where(self, name: str) -> str:
        """The file that sets an option."""
        return str(self.file) if name in (self.daemon_json or {}) or name not in self.flags else self.flags[name].where


class DockerdConfigReader:
    """Reads it, and again where stat(2) shows that a file may be another, or every ALL_S. For one thread."""

    def __init__(self, *, daemon_json: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads nothing yet. `daemon_json` is as in read_dockerd_config; `clock` is in seconds."""
        self._daemon_json = daemon_json
        self._consulted: tuple[str, ...] = ()
        # The paths are those of the last read: after the first one they are others, so there is a second.
        self._kept = Kept(self._read, lambda: identities(self._consulted), rest_s=ALL_S, clock=clock)

    def read(self) -> DockerdConfig:
        """The same as read_dockerd_config. Never raises."""
        return self._kept.get()

    def _read(self) -> DockerdConfig:
        found = read_dockerd_config(daemon_json=self._daemon_json)
        self._consulted = found.consulted
        return found


def read_dockerd_config(*, root: Path = Path("/"), daemon_json: Path | None = None) -> DockerdConfig:
    """Read the unit's files and daemon.json below `root`. Never raises.

    `daemon_json` is the path of that file; without it, what docker.service gives as --config-file, else Docker's own.
    """
    consulted = unit_files.consulted(root, UNIT)
    unit = list(unit_files.read(root, UNIT))
    environment_files: list[Path] = []
    flags = _unit_flags(root, unit, environment_files)
    named = flags.get("config-file")
    file = daemon_json or (Path(named.value) if named and named.value.startswith("/") else DAEMON_JSON)
    found, problems = read_daemon_json(root / str(file).lstrip("/"))
    return DockerdConfig(
        flags=flags,
        file=file,
        daemon_json=None if problems else found,
        problems=tuple(problems),
        has_variable=any(VARIABLE in command for command in unit_files.exec_start(text for _path, text in unit)),
        consulted=tuple(map(str, (*consulted, *_places(root, environment_files), root / str(file).lstrip("/")))),
    )


def read_daemon_json(path: Path = DAEMON_JSON) -> tuple[dict[str, Any], list[str]]:
    """What daemon.json sets, and what is wrong with the file. A missing or blank file is empty, as it is for Docker."""
    try:
        found = read_json(path) if path.read_text(encoding="utf-8-sig").strip() else {}
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        return {}, [f"{path} cannot be read, docker will not start: {error}"]
    return (found, []) if isinstance(found, dict) else ({}, [f"{path} is not a JSON object"])


def _unit_flags(root: Path, unit: list[tuple[Path, str]], environment_files: list[Path]) -> dict[str, Flag]:
    """The options on the command line of docker.service, without those of VARIABLE.

    The unit's EnvironmentFile= are put into the list.
    """
    variables: dict[str, Flag] = {}
    commands: list[tuple[str, str]] = []
    for path, text in unit:
        where = f"/{path.relative_to(root)}"
        for section, key, value in unit_files.assignments(text):
            if section != "Service":
                continue
            if key == "ExecStart":
                commands = [*commands, (value, where)] if value else []
            elif key == "EnvironmentFile":
                environment_files[:] = [*environment_files, Path(value.removeprefix("-"))] if value else []
            elif key == "Environment":
                variables = {**variables, **_assigned("\n".join(docker_flags.split(value)), where)} if value else {}
    for pattern in environment_files:
        # systemd.exec(5): the name may have wildcards, and variables of a file override those of Environment=.
        for file in sorted(root.glob(str(pattern).lstrip("/"))) if pattern.is_absolute() else ():
            variables |= _assigned(_text(file), f"/{file.relative_to(root)}")
    variables.pop(VARIABLE, None)
    found: dict[str, Flag] = {}
    for command, where in commands:
        words = docker_flags.expanded(command.lstrip("@-:+!|"), where, variables)
        if docker_flags.is_dockerd([word for word, _where in words]):
            found = docker_flags.parse(words[1:])
    return found


def _places(root: Path, environment_files: list[Path]) -> Iterator[Path]:
    """The paths that such names stand for; of one with wildcards, the files and the folder in which the others are."""
    for pattern in environment_files:
        if pattern.is_absolute():
            parts = pattern.parts[1:]
            wild = next((number for number, part in enumerate(parts) if _WILD & set(part)), len(parts))
            yield root.joinpath(*parts[:wild])
            if wild < len(parts):
                yield from root.glob(str(pattern).lstrip("/"))


def _assigned(text: str, where: str) -> dict[str, Flag]:
    return {name: Flag(value=value, where=where) for name, value in envfile.parse(text).items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def _json_value(text: str) -> object:
    """A flag's value as daemon.json has it."""
    return {"true": True, "false": False}.get(text, text)
