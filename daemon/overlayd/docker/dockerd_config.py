"""What dockerd is told on this host by others than us: docker.service with its drop-ins and variables, and daemon.json.

Read from the files, not asked of systemd: this is looked at while docker.service starts, and where there is no systemd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlayd.docker import flags as docker_flags
from overlayd.docker import generator
from overlayd.docker.flags import Flag
from overlayd.lib import envfile
from overlayd.lib.files import read_json

UNIT = "docker.service"
DAEMON_JSON = Path("/etc/docker/daemon.json")
# Ours: what is in it is what others are compared with.
VARIABLE = "OVERLAYD_DOCKER_OPTIONS"


@dataclass(frozen=True, kw_only=True)
class DockerdConfig:
    """`flags` are docker.service's own, by name; `daemon_json` what dockerd's file says, None where it is no good."""

    flags: Mapping[str, Flag] = field(default_factory=dict)
    file: Path = DAEMON_JSON
    daemon_json: Mapping[str, Any] | None = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Both in one, by their names in daemon.json."""
        found: dict[str, Any] = {name: _value(given.value) for name, given in self.flags.items()}
        return {**found, **(self.daemon_json or {})}

    def where(self, name: str) -> str:
        """The file that says an option."""
        return str(self.file) if name in (self.daemon_json or {}) or name not in self.flags else self.flags[name].where


def read_dockerd_config(*, root: Path = Path("/"), daemon_json: Path | None = None) -> DockerdConfig:
    """All that is known beforehand. `daemon_json`: where it is, if not where docker.service says. Never raises."""
    flags = unit_flags(root)
    named = flags.get("config-file")
    file = daemon_json or (Path(named.value) if named and named.value.startswith("/") else DAEMON_JSON)
    found, problems = read_daemon_json(root / str(file).lstrip("/"))
    return DockerdConfig(flags=flags, file=file, daemon_json=None if problems else found, problems=tuple(problems))


def unit_flags(root: Path = Path("/")) -> dict[str, Flag]:
    """The options on the command line of docker.service below `root`, without ours."""
    variables: dict[str, Flag] = {}
    files: list[Path] = []
    commands: list[tuple[str, str]] = []
    for path, text in generator.files(root, UNIT):
        where = f"/{path.relative_to(root)}"
        for section, key, value in generator.assignments(text):
            if section != "Service":
                continue
            if key == "ExecStart":
                commands = [*commands, (value, where)] if value else []
            elif key == "EnvironmentFile":
                files = [*files, Path(value.removeprefix("-"))] if value else []
            elif key == "Environment":
                variables = {**variables, **_assigned("\n".join(docker_flags.split(value)), where)} if value else {}
    for pattern in files:
        # What a file says goes before what Environment= says, and there may be wildcards (systemd.exec(5)).
        for file in sorted(root.glob(str(pattern).lstrip("/"))) if pattern.is_absolute() else ():
            variables |= _assigned(_text(file), f"/{file.relative_to(root)}")
    variables.pop(VARIABLE, None)
    found: dict[str, Flag] = {}
    for command, where in commands:
        words = docker_flags.expanded(command.lstrip("@-:+!|"), where, variables)
        if docker_flags.is_dockerd([word for word, _where in words]):
            found = docker_flags.parse(words[1:])
    return found


def takes_ours(root: Path = Path("/")) -> bool:
    """Whether docker.service has our variable on its command line by somebody's own hand, without the generator."""
    return any(VARIABLE in command for command in generator.exec_start(generator.sources(root, UNIT)))


def read_daemon_json(path: Path = DAEMON_JSON) -> tuple[dict[str, Any], list[str]]:
    """daemon.json's settings, and what is wrong with the file; a missing or blank one is empty, as it is for Docker."""
    try:
        found = read_json(path) if path.read_text(encoding="utf-8-sig").strip() else {}
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        return {}, [f"{path} cannot be read, docker will not start: {error}"]
    return (found, []) if isinstance(found, dict) else ({}, [f"{path} is not a JSON object"])


def _assigned(text: str, where: str) -> dict[str, Flag]:
    return {name: Flag(value=value, where=where) for name, value in envfile.parse(text).items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def _value(text: str) -> object:
    """As daemon.json would have it."""
    return {"true": True, "false": False}.get(text, text)
