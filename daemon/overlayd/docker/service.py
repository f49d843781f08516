"""docker.service: its state as systemd has it, why it failed, which flags dockerd runs with; its start and restart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from overlayd.docker import flags as docker_flags
from overlayd.docker import masquerade
from overlayd.docker.dockerd_config import UNIT, DockerdConfig
from overlayd.docker.processes import DockerdSearch, argv_of
from overlayd.docker.remedies import START_AGAIN
from overlayd.errors import CommandFailed
from overlayd.lib import process, systemctl
from overlayd.lib.addresses import IPNetwork
from overlayd.lib.log import logger
from overlayd.lib.quick_dataclass import dataclass

log = logger("docker")

ENABLE = "systemctl enable overlayd && systemctl daemon-reload"
DROP_INS = ("50-overlayd.conf", "zz-overlayd.conf")
# A restart stops containers, each of which has its own time for that.
RESTART_TIMEOUT_S = 300.0
_JOURNAL_TIMEOUT_S = 5.0
_LEFT_AT = "InactiveEnterTimestampMonotonic"
# What dockerd, its command line or our drop-in write when a start fails. The last such line is the reason.
_FAILURE_WORDS = (
    "failed to start daemon",
    "unable to configure",
    "unknown flag",
    "overlayd has no subnet",
    "level=fatal",
)
_MESSAGE = re.compile(r'\bmsg="((?:[^"\\]|\\.)*)"')
_LONGEST_REASON = 400


@dataclass(frozen=True, kw_only=True)
class DockerService:
    """docker.service: `state`, `sub_state` and `result` as systemd names them, `reason` from its log where it failed.

    `job`: systemd is about to start or stop it. `never_ran`: it has not run since boot. `by_hand`: somebody's own unit
    has overlayd's variable on its command line, so it needs no drop-ins.
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
        """Whether it ended by a failure, also while systemd waits to restart it."""
        return self.state == "failed" or (self.state == "activating" and self.sub_state == "auto-restart")

    @property
    def on_its_way(self) -> bool:
        """Whether systemd is starting or stopping it, or is about to."""
        return self.job or (self.state in ("activating", "deactivating", "reloading") and not self.failed)

    @property
    def at_rest(self) -> bool:
        """Whether it is stopped and not enabled. Its bridge may still exist, without containers."""
        return self.state == "inactive" and not self.job and not self.enabled

    @property
    def missing(self) -> tuple[str, ...]:
        """overlayd's drop-ins that it needs and does not have."""
        return () if self.by_hand else tuple(name for name in DROP_INS if name not in self.drop_ins)


def read_service(config: DockerdConfig) -> DockerService | None:
    """Ask systemd for docker.service; None without systemd, or where it knows no such unit. Never raises."""
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
    found = systemctl.show(UNIT, names)
    if found is None or found["LoadState"] != "loaded":
        return None
    service = DockerService(
        state=found["ActiveState"],
        sub_state=found["SubState"],
        enabled=found["UnitFileState"] == "enabled",
        job=found["Job"] not in ("", "0"),
        never_ran=found[_LEFT_AT] == "0",
        pid=int(found["MainPID"]) if found["MainPID"].isdigit() else 0,
        drop_ins=tuple(Path(path).name for path in found["DropInPaths"].split()),
        by_hand=config.has_variable,
        result=found["Result"],
    )
    return replace(service, reason=_reason(found["InvocationID"])) if service.failed else service


def _reason(invocation: str) -> str | None:
    """The last line in the log of docker.service that says why it failed; None where there is none, or no journal.

    `invocation` is systemd's id of the last start, empty before systemd 232. Lines of earlier starts do not count:
    their cause may be repaired.
    """
    argv = ["journalctl", "--boot", "--lines=200", "--output=cat", "--no-pager", "--quiet"]
    argv += [f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}"] if invocation else ["-u", UNIT]
    try:
        lines = process.run(argv, timeout_s=_JOURNAL_TIMEOUT_S).splitlines()
    except CommandFailed:
        return None
    for line in reversed(lines):
        if any(words in line for words in _FAILURE_WORDS):
            message = _MESSAGE.search(line)
            text = (message[1] if message else line).strip()
            return "".join(character if character.isprintable() else " " for character in text)[:_LONGEST_REASON]
    return None


def dockerd_argv(service: DockerService | None, search: DockerdSearch | None = None) -> tuple[str, ...] | None:
    """The command line of the running dockerd; None where none runs.

    It is the main process of docker.service, or without systemd the dockerd in this network namespace: `search` is one
    that looked before.
    """
    if service is None:
        return (search or DockerdSearch()).argv()
    argv = argv_of(service.pid) if service.state == "active" and service.pid else ()
    return argv if docker_flags.is_dockerd(argv) else None


def differences(argv: Sequence[str] | None, options: Sequence[str], config: DockerdConfig) -> Mapping[str, str]:
    """How the running dockerd's options differ from `options` and `config` together: a phrase by option.

    Empty where no dockerd runs, or its daemon.json cannot be read.
    """
    if argv is None or config.daemon_json is None:
        return {}
    desired = {**config.flags, **docker_flags.of_argv(options, "docker.env")}
    return docker_flags.differences(docker_flags.of_argv(argv[1:], "dockerd"), desired, config.daemon_json)


def restart_needed(different: Mapping[str, str], service: DockerService | None) -> str | None:
    """A sentence that dockerd runs with other options than it should, and what to run; None without differences."""
    if not different:
        return None
    what = f"dockerd runs {', '.join(different.values())}"
    if service is not None and service.missing:
        return f"{what}: docker.service has no {', '.join(service.missing)}; run: {ENABLE} && overlayd docker settle"
    return f"{what}: its options have changed since it was started; run: overlayd docker settle"


def down(service: DockerService | None) -> str | None:
    """Why docker does not run though it is enabled or was started; None where it runs or is about to."""
    if service is None or service.job:
        return None
    if service.failed:
        return f"docker.service failed: {service.reason or f'{service.result}, see journalctl -u {UNIT} -n 50'}"
    if service.state == "inactive" and service.enabled:
        return "docker.service is enabled and stopped, so no container runs here"
    return None


def start_command(service: DockerService) -> str:
    """What to do about `down`, on a host where overlayd holds its subnet; elsewhere docker would wait for that."""
    return f"mend that, then run: {START_AGAIN}" if service.failed else "run: systemctl start docker"


def missing_drop_ins(service: DockerService | None) -> str | None:
    """A sentence where docker runs, and its next start will not get the subnet, as overlayd's drop-ins are missing."""
    if service is None or not service.missing or service.state != "active":
        return None
    return (
        f"docker.service has no {', '.join(service.missing)}, so its next start is without this host's subnet; "
        f"run: {ENABLE}; where that changes nothing: journalctl -b | grep overlayd-docker-generator"
    )


def settle(config: DockerdConfig, problem: str | None, *, restart: str) -> None:
    """Start docker, or restart it where `restart` allows that; else log what has to be done. Never raises.

    It is started where its start was refused for want of a subnet, or where it is enabled and has not run since boot.
    It is restarted where it runs and there is a `problem` that a restart solves. `restart` is the setting
    docker-restart: `always`, `idle` (only while no container runs), or `never`.
    """
    service = read_service(config)
    if service is None or service.job:
        return  # Without systemd something else starts docker.
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
    """Whether docker runs no container; False where it does not answer."""
    return containers() == ()


def containers() -> tuple[str, ...] | None:
    """The ids of the running containers; None where docker does not answer."""
    try:
        return tuple(process.run(["docker", "ps", "--quiet"]).split())
    except CommandFailed:
        return None


def _systemctl(*words: str) -> None:
    try:
        process.run(["systemctl", *words])
    except CommandFailed as error:
        log.warning("systemctl failed", problem=error.message)


def somebody_masquerades(subnet: IPNetwork) -> bool:
    """Whether a rule of iptables or nftables on this host masquerades packets from the subnet.

    Raises CommandFailed where the rules of iptables cannot be read.
    """
    if masquerade.by_iptables(process.run(["iptables-save"]), subnet):
        return True
    try:
        return masquerade.by_nft(process.run(["nft", "list", "ruleset"]))
    except CommandFailed:
        # Hosts without nft hardly have rules of nftables.
        return False
