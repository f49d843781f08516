"""The image overlayd/base as a small machine: logins, identity, time, journal, cron, health, cgroups, shutdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.cluster.images import image_of
from tests.testbed.cluster.system_container import (
    CGROUPS,
    TMPFS,
    UNIFIED,
    V2,
    SshKeys,
    SystemContainer,
    docker,
    started,
)
from tests.testbed.polling import eventually

NAME = "overlayd-test-system"
SUBNET = "198.18.61.0/24"
OPTIONS = ("--tty", f"--network={NAME}", *CGROUPS, *TMPFS, "--health-interval=1s")
UUID = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9"
STOP_S = 5.0


@pytest.fixture(scope="module")
def image(base: str) -> str:
    return image_of("base", base)


@pytest.fixture(scope="module")
def _network() -> Iterator[None]:
    docker("network", "rm", NAME, status=None)
    docker("network", "create", f"--subnet={SUBNET}", NAME)
    try:
        yield
    finally:
        docker("network", "rm", NAME)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SshKeys:
    return SshKeys.made(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def others_keys(tmp_path_factory: pytest.TempPathFactory) -> SshKeys:
    return SshKeys.made(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys that another user owns, as with mounted folders; alice's keys are in a folder below it."""
    folder = tmp_path_factory.mktemp("authorized_keys.d")
    (folder / "alice").mkdir()
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def _machine(image: str, _network: None, keys: SshKeys) -> Iterator[SystemContainer]:
    options = (
        *("--env=TZ=Europe/Berlin", "--env=LANG=en_US.UTF-8", "--env=SECRET=hidden", "--volume=/var/log/journal"),
        *(f"--env=SSH_AUTHORIZED_KEYS={keys.public}\n", f"--env=SSH_AUTHORIZED_KEYS_bob={keys.public}"),
    )
    with started(f"{NAME}-1", image, *OPTIONS, *options) as container:
        yield container


@pytest.fixture(scope="module")
def _misused(image: str, _network: None, keys: SshKeys, folder: Path) -> Iterator[SystemContainer]:
    private = (keys.folder / ".ssh/id_ed25519").read_text()
    (folder / "alice/laptop.pub").write_text(f"{keys.public}\nnot a key\n")
    options = (
        *("--env=TZ=Europe/Berln", "--env=LC_TIME=xx_YY.UTF-8", f"--env=container_uuid={UUID}"),
        *(f"--env=SSH_AUTHORIZED_KEYS={private}", f"--volume={folder}:/etc/ssh/authorized_keys.d:ro"),
    )
    with started(f"{NAME}-2", image, *OPTIONS, *options) as container:
        yield container


@pytest.fixture
def machine(_machine: SystemContainer, _misused: SystemContainer) -> SystemContainer:
    """A container with correct settings. It boots at the same time as the other one."""
    return _machine.booted()


@pytest.fixture
def misused(_machine: SystemContainer, _misused: SystemContainer) -> SystemContainer:
    """A container with an unknown zone, an unknown locale, and lines that are no keys."""
    return _misused.booted()


def health(container: SystemContainer) -> tuple[str, str]:
    """Docker's health status, and the output of the last check."""
    found = container.inspect(".State.Health")
    return found["Status"], found["Log"][-1]["Output"].strip() if found["Log"] else ""


def test_it_boots_to_running_and_healthy_without_a_further_capability(machine: SystemContainer) -> None:
    assert machine.state() == "running"
    assert machine.run("systemctl", "list-units", "--failed", "--no-legend") == ""
    eventually("it is healthy", lambda: health(machine) == ("healthy", "running"))
    assert machine.inspect(".HostConfig.CapAdd") is None
    assert machine.inspect(".HostConfig.Privileged") is False
    assert "multi-user.target" in machine.logs


def test_a_key_of_a_variable_logs_root_and_another_user_in(machine: SystemContainer, keys: SshKeys) -> None:
    assert machine.ssh(keys, "root", "id", "-un") == "root"
    assert machine.ssh(keys, "bob", "id", "-un; pwd") == "bob\n/home/bob"


def test_somebody_elses_key_logs_nobody_in(machine: SystemContainer, others_keys: SshKeys) -> None:
    for user in ("root", "bob"):
        assert "Permission denied (publickey)" in machine.ssh(others_keys, user, "true", status=255)


def test_no_password_logs_in_not_even_the_right_one(machine: SystemContainer, keys: SshKeys, tmp_path: Path) -> None:
    shadow = [line.split(":")[:2] for line in machine.run("cat", "/etc/shadow").splitlines()]
    assert {name for name, password in shadow if not password.startswith(("!", "*"))} == set()
    assert dict(shadow)["root"].startswith("!")

    machine.shell("printf 'bob:right\\nroot:right\\n' | chpasswd")
    try:
        for user in ("root", "bob"):
            said = machine.ssh(
                keys,
                user,
                "true",
                status=255,
                BatchMode="no",
                PubkeyAuthentication="no",
                PreferredAuthentications="password,keyboard-interactive",
            )
            assert "Permission denied (publickey)" in said
        # sshd's effective settings, after all its files.
        in_force = machine.run("sshd", "-T").splitlines()
        assert {"passwordauthentication no", "kbdinteractiveauthentication no", "permitemptypasswords no"} <= {
            *in_force
        }
    finally:
        machine.shell("usermod --lock root; usermod --lock bob")


def test_zone_and_locale_reach_logins_and_services_and_secrets_do_not(machine: SystemContainer, keys: SshKeys) -> None:
    winter = "date --date=2026-01-15T12:00:00Z +%H%Z"
    service = ("systemd-run", "--quiet", "--wait", "--pipe", "sh", "-c")
    assert machine.ssh(keys, "bob", winter) == "13CET"
    assert machine.ssh(keys, "bob", "locale | sed -n 1p; env").splitlines()[0] == "LANG=en_US.UTF-8"
    assert machine.run(*service, f"{winter}; echo $LANG") == "13CET\nen_US.UTF-8"
    # The environment of a service that started at the first boot, after the files were written.
    pid = machine.run("systemctl", "show", "--property=MainPID", "--value", "systemd-logind")
    assert "LANG=en_US.UTF-8" in machine.shell(f"tr '\\0' '\\n' </proc/{pid}/environ").splitlines()
    assert "hidden" not in machine.ssh(keys, "bob", "env") + machine.run(*service, "env")
    assert machine.run(*service[:1], "--property=PassEnvironment=SECRET", *service[1:], "echo $SECRET") == "hidden"


def test_each_container_has_its_own_identity_and_the_image_has_none(
    image: str, machine: SystemContainer, misused: SystemContainer
) -> None:
    script = "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub"
    assert not {*machine.shell(script).splitlines()} & {*misused.shell(script).splitlines()}
    assert misused.run("cat", "/etc/machine-id") == UUID.replace("-", "")
    looked = docker("run", "--rm", "--network=none", image, "sh", "-c", "ls /etc/ssh; wc -c /etc/machine-id")
    assert "0 /etc/machine-id" in looked.splitlines()
    assert "ssh_host_" not in looked


def test_an_unknown_zone_and_locale_are_reported_and_change_nothing(misused: SystemContainer) -> None:
    said = misused.journal("--unit=container-settings", "--priority=err")
    assert "TZ=Europe/Berln: there is no such zone below /usr/share/zoneinfo; the zone stays " in said
    assert "LC_TIME=xx_YY.UTF-8: there is no such locale, it stays as it was; there are: C " in said
    # Docker gives the container's variables to commands that it runs inside.
    assert misused.run("env", "--unset=TZ", "date", "+%Z") == "UTC"
    assert misused.run("cat", "/etc/locale.conf") == "LANG=C.UTF-8"
    assert "TZ=Europe/Berln" in misused.logs


def test_a_line_that_is_no_key_is_reported_left_out_and_not_shown(misused: SystemContainer, keys: SshKeys) -> None:
    said = misused.journal("--unit=container-ssh-keys", "--priority=err")
    wrong = "no public key as OpenSSH writes them, so left out: line"
    assert f"variable SSH_AUTHORIZED_KEYS: {wrong} 1 2 3" in said
    assert f"/etc/ssh/authorized_keys.d/alice/laptop.pub: {wrong} 2" in said
    for line in (keys.folder / ".ssh/id_ed25519").read_text().splitlines()[1:-1]:
        assert line not in misused.journal()
    assert "Permission denied" in misused.ssh(keys, "root", "true", status=255)
    assert misused.shell("cat /run/system-container/keys/*") == keys.public


def test_keys_in_a_mounted_folder_are_used_and_changes_are_followed(
    misused: SystemContainer, keys: SshKeys, others_keys: SshKeys, folder: Path
) -> None:
    assert misused.ssh(keys, "alice", "id", "-un") == "alice"
    (folder / "carol").write_text(f"{others_keys.public}\n")
    (folder / "carol").chmod(0o666)
    eventually("carol may log in", lambda: misused.ssh(others_keys, "carol", "id", "-un", status=None) == "carol")
    (folder / "carol").unlink()
    eventually(
        "carol may no more",
        lambda: "Permission denied" in misused.ssh(others_keys, "carol", "true", status=None),
    )
    assert misused.ssh(keys, "alice", "id", "-un") == "alice"


def test_health_names_the_units_that_failed(misused: SystemContainer, machine: SystemContainer) -> None:
    wanted = "degraded, failed: container-settings.service container-ssh-keys.service"
    eventually("the look says why", lambda: health(misused)[1] == wanted)
    program = "/usr/libexec/system-container/health"
    machine.run("systemd-run", "--unit=broken", "false")
    eventually("it has failed", lambda: machine.state() == "degraded")
    assert machine.run(program, status=1) == "degraded, failed: broken.service"
    machine.run("systemctl", "reset-failed", "broken")
    assert machine.run(program) == "running"


def test_a_container_stops_in_order_and_starts_again_unchanged(machine: SystemContainer, keys: SshKeys) -> None:
    script = "cat /etc/machine-id /etc/ssh/ssh_host_*_key"
    before = machine.shell(script)
    machine.shell(
        "mkdir -p /run/systemd/system && printf '[Service]\\nExecStart=/bin/sh -c \"trap : TERM; while :; do sleep 1; "
        "done\"\\n' >/run/systemd/system/deaf.service && systemctl start deaf"
    )
    machine.shell("printf '@reboot date | systemd-cat --identifier=from-cron\\n' | crontab -")

    took_s, status = machine.stopped()
    assert took_s < STOP_S
    assert status == 0
    docker("start", machine.name)
    machine.booted()
    assert machine.shell(script) == before
    assert machine.ssh(keys, "root", "id", "-un") == "root"

    # The journal is on a volume, so it has the last lines of the run before.
    # (journalctl shows one boot: a container has the kernel's boot ID.)
    words = machine.journal().splitlines()
    words = words[words.index("Received SIGRTMIN+3.") : words.index("Journal stopped") + 1]
    assert [line for line in words if "SIGKILL" in line] == [
        line
        for line in words
        if re.fullmatch(r"deaf\.service: Killing process \d+ \((sh|sleep)\) with signal SIGKILL\.", line)
    ]
    order = [
        "Received SIGRTMIN+3",
        "Stopped target multi-user",
        "Stopped deaf",
        "Shutting down",
    ]
    places = [next((n for n, line in enumerate(words) if line.startswith(start)), -1) for start in order]
    assert -1 not in places, (order, places, words[-40:])
    assert places == sorted(places)
    eventually("cron ran its job at the start", lambda: "CE" in machine.journal("--identifier=from-cron"))


def test_it_boots_on_cgroup_v2(image: str) -> None:
    if not UNIFIED.exists():
        pytest.skip("this machine has no cgroup v2, not even beside v1")
    options = (CGROUPS[0], f"--volume={UNIFIED}:/sys/fs/cgroup:rw", *TMPFS, "--network=none")
    with started(f"{NAME}-v2", image, *options) as container:
        assert health(container)[0] == "starting"
        assert container.booted().state() == "running"
        assert re.fullmatch(r"system container: .+, systemd \d+\S*, cgroup v2", container.logs.splitlines()[0])
        assert "no console; --tty shows the boot" in container.logs
        assert container.shell(
            "stat -f -c %t /sys/fs/cgroup; test -d /sys/fs/cgroup$(sed -n s/^0:://p /proc/1/cgroup)"
        ) == ("63677270")
        took_s, status = container.stopped()
        assert (took_s < STOP_S, status) == (True, 0)


# The data of another base instead of this one's: "1" is that of EL 7, "2" that of Stream 10.
@pytest.mark.parametrize(
    ("options", "can", "said"),
    [
        ((*CGROUPS, *TMPFS, "--init"), "1 2", "must be process 1, and this is process"),
        ((*TMPFS, "--tmpfs=/sys/fs:ro"), "1 2", "nothing is mounted at /sys/fs/cgroup"),
        ((*TMPFS, "--cgroupns=host"), "1 2", "--volume /sys/fs/cgroup:/sys/fs/cgroup:rw"),
        ((*TMPFS, "--cgroupns=private", CGROUPS[1]), "1 2", "own control group is not at /sys/fs/cgroup"),
        ((CGROUPS[0], *TMPFS, f"--volume={UNIFIED}:/sys/fs/cgroup:ro"), "1 2", "is read-only"),
        ((*CGROUPS,), "1 2", "needs a tmpfs on /run"),
        (
            (CGROUPS[0], f"--volume={UNIFIED}:/sys/fs/cgroup:rw", *TMPFS),
            "1",
            "boots on cgroup v1 only, and this machine",
        ),
        ((*CGROUPS, *TMPFS, "--tty"), "2", "boots on cgroup v2 only, and this machine has cgroup v1"),
    ],
    ids=["init", "no-cgroups", "default", "private", "read-only", "no-run", "v1-only", "v2-only"],
)
def test_where_systemd_cannot_boot_it_says_so_and_what_to_do(
    image: str, options: tuple[str, ...], can: str, said: str, tmp_path: Path
) -> None:
    if can == "2" and V2.exists():
        pytest.skip("this machine has cgroup v2 only, on which such a base boots")
    (tmp_path / "cgroups").write_text(f"{can}\n")
    words = ("--network=none", f"--volume={tmp_path}/cgroups:/usr/share/system-container/cgroups:ro", *options)
    with started(f"{NAME}-refused", image, *words) as container:
        eventually("it has ended", lambda: container.inspect(".State.Status") == "exited")
        assert container.inspect(".State.ExitCode") == 1
        assert said in container.logs
        assert "What to do: " in container.logs
        assert all(line.startswith("system container: ") for line in container.logs.splitlines())
