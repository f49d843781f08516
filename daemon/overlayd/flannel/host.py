"""What flannel has left on a host: read from its files, nothing is changed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path

from overlayd.errors import ConfigError, PrivilegeError
from overlayd.flannel import options
from overlayd.leases.subnets import Subnets
from overlayd.lib import envfile, unit_files
from overlayd.lib.quick_dataclass import dataclass
from overlayd.lib.sanitize import plain

SYSCONFIG = "etc/sysconfig/flanneld"
# What mk-docker-opts writes on CentOS. Some units have it write over subnet.env itself.
DOCKER_ENV = "run/flannel/docker"
UNITS = ("flanneld.service", "flannel.service")
_BIP = re.compile(r"--bip=([0-9./]+)")
_EXPANDED = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True, kw_only=True)
class FlannelHost:
    """What flannel has left on a host. Paths are as the host has them, also where it was read below another root.

    `docker_files` mention flannel or a `--bip`; `required` says that docker.service requires flannel's unit.
    """

    files: tuple[Path, ...]
    variables: Mapping[str, str]
    words: tuple[str, ...]
    unit: str
    subnets: Subnets
    masquerades: bool | None
    network: str | None
    devices: tuple[str, ...]
    docker_files: tuple[Path, ...]
    required: bool


def look(root: Path, *, sysconfig: Path | None = None, subnet_env: Path | None = None) -> FlannelHost:
    """Read the host below `root`; `sysconfig` and `subnet_env` replace flannel's usual files.

    Raises ConfigError, PrivilegeError.
    """
    seen: list[Path] = []

    def read(path: Path) -> dict[str, str]:
        try:
            found = envfile.parse(path.read_text())
        except FileNotFoundError:
            return {}
        except PermissionError:
            raise PrivilegeError(f"{path}: only root may read it", hint="run this as root") from None
        except (OSError, ValueError) as error:
            # ValueError also for a zero byte in the path.
            raise ConfigError(f"{plain(str(path))}: cannot be read: {error}") from error
        seen.append(path)
        return found

    unit = next((name for name in UNITS if _texts(root, name)), UNITS[0])
    variables = read(sysconfig or root / SYSCONFIG)
    texts = _texts(root, unit)
    for name, value in _unit_environment(texts):
        path = root / value.removeprefix("-").lstrip("/")
        variables |= read(path) if name == "EnvironmentFile" and path not in seen else {}
        if name == "Environment":
            variables |= envfile.parse("\n".join(_words(value)))
    words = command_line(unit_files.exec_start(texts), variables)
    written = subnet_env or root / _subnet_file(variables, words).lstrip("/")
    leased = read(written)
    return FlannelHost(
        files=tuple(seen),
        variables=variables,
        words=words,
        unit=unit,
        subnets=_subnets(leased) or _subnets(read(root / DOCKER_ENV)) or Subnets(),
        masquerades={"true": True, "false": False}.get(leased.get("FLANNEL_IPMASQ", "")),
        network=leased.get("FLANNEL_NETWORK"),
        devices=tuple(sorted(path.name for path in (root / "sys/class/net").glob("flannel*"))),
        docker_files=tuple(Path("/") / path.relative_to(root) for path in _docker_files(root)),
        required=any((root / place / "docker.service.requires" / unit).is_symlink() for place in unit_files.UNIT_DIRS),
    )


def _texts(root: Path, unit: str) -> list[str]:
    try:
        return list(unit_files.texts(root, unit))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{unit} cannot be read: {error}") from error


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        # Not shown: there may be a password.
        raise ConfigError(f"flannel's unit or its variables cannot be split into words: {error}") from error


def command_line(commands: Sequence[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """The words after the program of a flanneld's ExecStart, as systemd expands them; without one FLANNEL_OPTIONS.

    Raises ConfigError.
    """
    words = _words(commands[0]) if commands else []
    if not words or not Path(words[0].lstrip("-@!+:")).name.startswith("flanneld"):
        words = ["flanneld", "$FLANNEL_OPTIONS"]
    found: list[str] = []
    for word in words[1:]:
        if re.fullmatch(r"\$\w+", word):
            # systemd.service(5): `$NAME` as a word of its own is split into words.
            found += _words(variables.get(word[1:], ""))
        else:
            found.append(_EXPANDED.sub(lambda match: variables.get(match[1] or match[2], ""), word))
    return tuple(found)


def _unit_environment(texts: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (key, value)
        for text in texts
        for section, key, value in unit_files.assignments(text)
        if section == "Service" and key in ("Environment", "EnvironmentFile") and value
    ]


def _subnet_file(variables: Mapping[str, str], words: Sequence[str]) -> str:
    typed = dict(options.parse(words)).get("subnet-file")
    return typed or variables.get("FLANNELD_SUBNET_FILE") or options.SUBNET_ENV


def _subnets(variables: Mapping[str, str]) -> Subnets | None:
    bip = next((match[1] for value in variables.values() if (match := _BIP.search(value))), None)
    try:
        return Subnets.of_subnet_env(variables) or (Subnets(v4=IPv4Interface(bip).network) if bip else None)
    except ValueError as error:
        raise ConfigError(f"flannel's subnet is no subnet: {error}") from error


def _docker_files(root: Path) -> list[Path]:
    found = []
    for place in unit_files.UNIT_DIRS:
        folder = root / place
        for path in (folder / "docker.service", *sorted((folder / "docker.service.d").glob("*.conf"))):
            if path.is_file() and "flannel" in path.read_text(errors="replace"):
                found.append(path)
    for name in ("docker", "docker-network"):
        path = root / "etc/sysconfig" / name
        if path.is_file() and "--bip" in path.read_text(errors="replace"):
            found.append(path)
    return found
