"""docker.service as systemd has it: how it is, why it failed, what dockerd was started with; starting it when safe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from overlayd.docker import flags as docker_flags
from overlayd.docker.dockerd_config import UNIT, DockerdConfig, takes_ours
from overlayd.docker.remedies import START_AGAIN
from overlayd.errors import CommandFailed
from overlayd.lib import process
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.log import logger

log = logger("docker")

ENABLE = "systemctl enable overlayd && systemctl daemon-reload"
DROP_INS = ("50-overlayd.conf", "zz-overlayd.conf")
# Containers get their own time to stop.
RESTART_TIMEOUT_S = 300.0
_ASK_TIMEOUT_S = 5.0
_LEFT_AT = "InactiveEnterTimestampMonotonic"
_PROC = Path("/proc")
# In the words of dockerd, of its command line, and of our own drop-in; the last line with one of them is the reason.
_REASONS = ("failed to start daemon", "unable to configure", "unknown flag", "overlayd has no subnet", "level=fatal")
_MESSAGE = re.compile(r'\bmsg="((?:[^"\\]|\\.)*)"')
_REASON_AT_MOST = 400


@dataclass(frozen=True, kw_only=True)
class DockerService:
    """docker.service: `state`, `sub_state` and `result` as systemd names them; `reason`: why it failed, by its own log.

    `job`: systemd is about to start or stop it. `never_ran`: not in this boot. `by_hand`: somebody's own unit has our
    options without our drop-ins.
    """

    state: str
    sub_state: str = ""
    enabled: bool = False
    job: bool = False
    never_ran: bool = False
    pid: int = 0
    drop_ins: tuple[str, ...] = ()
    by_hand: bool = False
    result: str = ""
    reason: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended though nobody wanted it to, also where systemd is about to try again."""
        return self.state == "failed" or (self.state == "activating" and self.sub_state == "auto-restart")

    @property
    def on_its_way(self) -> bool:
        """Whether it is being started or stopped, or is about to be."""
        return self.job or (self.state in ("activating", "deactivating", "reloading") and not self.failed)

    @property
    def at_rest(self) -> bool:
        """Whether it does not run and nobody wants it to: its bridge may be there still, and has no container."""
        return self.state == "inactive" and not self.job and not self.enabled

    @property
    def missing(self) -> tuple[str, ...]:
        """The drop-ins of ours that it does not have and needs."""
        return () if self.by_hand else tuple(name for name in DROP_INS if name not in self.drop_ins)


def read_service() -> DockerService | None:
    """What systemd says of docker.service; None without systemd, or where it knows no such unit."""
    names = (
        "LoadState",
        "ActiveState",
        "SubState",
        "Result",
        "InvocationID",
        "UnitFileState",
        "Job",
        "MainPID",
        "DropInPaths",
        _LEFT_AT,
    )
    try:
        text = process.run(["systemctl", "show", UNIT, f"--property={','.join(names)}"], timeout_s=_ASK_TIMEOUT_S)
    except CommandFailed:
        return None
    found = dict.fromkeys(names, "") | dict(line.partition("=")[::2] for line in text.splitlines())
    if found["LoadState"] != "loaded":
        return None
    service = DockerService(
        state=found["ActiveState"],
        sub_state=found["SubState"],
        enabled=found["UnitFileState"] == "enabled",
        job=found["Job"] not in ("", "0"),
        never_ran=found[_LEFT_AT] == "0",
        pid=int(found["MainPID"]) if found["MainPID"].isdigit() else 0,
        drop_ins=tuple(Path(path).name for path in found["DropInPaths"].split()),
        by_hand=takes_ours(),
        result=found["Result"],
    )
    return replace(service, reason=_reason(found["InvocationID"])) if service.failed else service


def _reason(invocation: str) -> str | None:
    """Why docker.service failed last: of its log, the line that says it; None where there is none to read.

    `invocation` is systemd's name for its last start; a systemd before 232 has none.
    """
    argv = ["journalctl", "--boot", "--lines=200", "--output=cat", "--no-pager", "--quiet"]
    # What an earlier start failed for may be mended since.
    argv += [f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}"] if invocation else ["-u", UNIT]
    try:
        lines = process.run(argv, timeout_s=_ASK_TIMEOUT_S).splitlines()
    except CommandFailed:
        return None
    for line in reversed(lines):
        if any(words in line for words in _REASONS):
            said = _MESSAGE.search(line)
            text = (said[1] if said else line).strip()
            return "".join(character if character.isprintable() else " " for character in text)[:_REASON_AT_MOST]
    return None


def dockerd_argv(service: DockerService | None) -> tuple[str, ...] | None:
    """The command line of the dockerd that runs: systemd's, else the one in this network namespace; None without."""
    if service is not None:
        argv = _argv(_PROC / str(service.pid)) if service.state == "active" and service.pid else ()
        return argv if docker_flags.is_dockerd(argv) else None
    try:
        own = (_PROC / "self/ns/net").readlink()
        there = [path for path in _PROC.iterdir() if path.name.isdigit()]
    except OSError:
        return None
    for path in there:
        try:
            if (path / "comm").read_text(errors="replace").startswith("dockerd"):
                argv = _argv(path)
                if docker_flags.is_dockerd(argv) and (path / "ns/net").readlink() == own:
                    return argv
        except OSError:
            # It ended just now, or is not for us to look at.
            continue
    return None


def _argv(process_folder: Path) -> tuple[str, ...]:
    try:
        words = (process_folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ()
    return tuple(words[:-1])


def differences(argv: Sequence[str] | None, options: Sequence[str], told: DockerdConfig) -> Mapping[str, str]:
    """By option, in what the dockerd that runs was started otherwise than with `options` and what it is told else."""
    if argv is None or told.daemon_json is None:
        return {}
    should = {**told.flags, **docker_flags.of_argv(options, "docker.env")}
    return docker_flags.differences(docker_flags.of_argv(argv[1:], "dockerd"), should, told.daemon_json)


def started_otherwise(different: Mapping[str, str], service: DockerService | None) -> str | None:
    """One sentence about them; None where there is none."""
    if not different:
        return None
    what = f"dockerd runs {', '.join(different.values())}"
    if service is not None and service.missing:
        return f"{what}: docker.service has no {', '.join(service.missing)}; run: {ENABLE} && overlayd docker settle"
    return f"{what}: it was started before that was so; run: overlayd docker settle"


def down(service: DockerService | None) -> str | None:
    """Why no docker runs here though it should; None where it runs, is on its way, or is nobody's wish."""
    if service is None or service.job:
        return None
    if service.failed:
        return f"docker.service failed: {service.reason or f'{service.result}, see journalctl -u {UNIT} -n 50'}"
    if service.state == "inactive" and service.enabled:
        return "docker.service is enabled and stopped, so no container runs here"
    return None


def not_ours(service: DockerService | None) -> str | None:
    """That a docker that runs well now would be started without its subnet; None where it would not."""
    if service is None or not service.missing or service.state != "active":
        return None
    return (
        f"docker.service has no {', '.join(service.missing)}, so its next start is without this host's subnet; "
        f"run: {ENABLE}; where that changes nothing: journalctl -b | grep overlayd-docker-generator"
    )


def up_again(service: DockerService) -> str:
    """What to do about `down`, on a host where overlayd holds its subnet; elsewhere docker would wait for that."""
    return f"mend that, then run: {START_AGAIN}" if service.failed else "run: systemctl start docker"


def settle(problem: str | None, *, restart: str) -> None:
    """Bring docker up on the subnet as far as this host's settings allow; else say what has to be done. Never raises.

    A docker that was refused a start for want of a subnet, or that is enabled and was never started in this boot, is
    started. One that runs on another bridge address (`problem`) is restarted: `restart` is the setting docker-restart,
    `idle` (only if it runs no container), `never` or `always`.
    """
    service = read_service()
    if service is None or service.job:
        return  # without systemd somebody else starts docker
    if service.state == "failed" or (service.state == "inactive" and service.never_ran and service.enabled):
        log.info("starting docker, which waited for the subnet", unit=UNIT)
        _systemctl("reset-failed", UNIT)
        _systemctl("start", "--no-block", UNIT)
    elif service.state == "active" and problem is not None:
        if restart == "always" or (restart == "idle" and idle()):
            log.warning("restarting docker", reason=problem, docker_restart=restart)
            _systemctl("restart", "--no-block", UNIT)
        else:
            log.error("docker must be restarted: overlayd docker settle", problem=problem, docker_restart=restart)


def restart_now() -> None:
    """Restart docker, whatever runs in it, and wait for it. Raises CommandFailed."""
    process.run(["systemctl", "restart", UNIT], timeout_s=RESTART_TIMEOUT_S)


def idle() -> bool:
    """Whether docker runs no container; False where it does not say."""
    return containers() == ()


def containers() -> tuple[str, ...] | None:
    """The containers that run, by their ids; None where docker does not say."""
    try:
        return tuple(process.run(["docker", "ps", "--quiet"]).split())
    except CommandFailed:
        return None


def _systemctl(*words: str) -> None:
    try:
        process.run(["systemctl", *words])
    except CommandFailed as error:
        log.warning("systemctl failed", problem=error.message)


def outside() -> ModuleType:
    """Who masquerades: with the walker of rules behind it, half a megabyte that hardly any host needs."""
    return import_module("overlayd.ruleset.masquerade")


def somebody_masquerades(subnet: IPNetwork) -> bool:
    """Whether a rule here, of iptables or of nftables, gives packets from the subnet this host's address outside.

    Raises CommandFailed where iptables' cannot be read.
    """
    if outside().by_iptables(process.run(["iptables-save"]), subnet):
        return True
    try:
        return bool(outside().by_nft(process.run(["nft", "list", "ruleset"])))
    except CommandFailed:
        # Mostly there is no such program, and so hardly anybody wrote rules with it.
        return False
