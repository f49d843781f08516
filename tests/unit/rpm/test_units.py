"""The unit, the drop-in and the files beside them are as designed, and systemd accepts them."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from overlayd import errors, settings
from overlayd.cli import parser
from overlayd.probe import container_sockets

ROOT = Path(__file__).resolve().parents[3]
UNITS = ROOT / "rpm/units"


def assignments(path: Path) -> dict[str, list[str]]:
    """By `Section.Key`: its values in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    return assignments(UNITS / "overlayd.service")


@pytest.fixture(scope="module")
def drop_in() -> dict[str, list[str]]:
    return assignments(UNITS / "docker.conf")


@pytest.mark.needs("root")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine; the cluster tests load the unit")
    place = tmp_path / "usr/lib/systemd/system"
    place.mkdir(parents=True)
    for name in ("overlayd.service", "overlayd-containers.service", "overlayd-containers.socket"):
        shutil.copy(UNITS / name, place)
    # `systemd-analyze verify` needs the program, and the targets on which every unit depends.
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/overlayd").touch(mode=0o755)
    (tmp_path / "usr/lib/overlayd/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/overlayd/bin/overlayd-containers").touch(mode=0o755)
    for name in (
        "sysinit.target",
        "sockets.target",
        "basic.target",
        "shutdown.target",
        "multi-user.target",
        "network-online.target",
    ):
        (place / name).write_text("[Unit]\nDescription=there\n")
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            f"--root={tmp_path}",
            "overlayd.service",
            "overlayd-containers.socket",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_of_another_network_is_the_same_but_for_its_files_and_docker(unit: dict[str, list[str]]) -> None:
    script = UNITS / "overlayd-of-number.sed"
    done = subprocess.run(["sed", "-f", script, UNITS / "overlayd.service"], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "=" in line and not line.startswith("#")]
    made = {line.partition("=")[0]: line.partition("=")[2] for line in lines}
    assert made["ExecStart"] == "/usr/bin/overlayd run --network-number=%i $OVERLAYD_OPTIONS"
    assert made["EnvironmentFile"] == "-/etc/sysconfig/overlayd.%i"
    assert (made["RuntimeDirectory"], made["StateDirectory"]) == ("overlayd%i", "overlayd%i")
    before = [line for line in (UNITS / "overlayd.service").read_text().splitlines() if line and line[0] not in "#["]
    assert len(set(before) - set(lines)) == 6
    assert not [line for line in lines if "docker" in line]
    assert unit["Unit.Before"] == ["docker.service"]


@pytest.mark.needs("root")
def test_systemd_finds_it_well_confined() -> None:
    # What the daemon needs: root, the host's network and sysctls, sockets, NET_ADMIN, NET_RAW, BPF, /dev/net/tun.
    assert shutil.which("systemd-analyze"), "the tests need systemd-analyze: run `make system`"
    done = subprocess.run(
        [*("systemd-analyze", "security", "--offline=true", "--no-pager"), UNITS / "overlayd.service"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for overlayd.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= 2.0, done.stdout


def test_it_keeps_the_capabilities_that_it_uses_and_no_other(unit: dict[str, list[str]]) -> None:
    assert unit["Service.CapabilityBoundingSet"] == ["CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON"]
    assert "Service.AmbientCapabilities" not in unit


def test_the_containers_service_is_apart_from_the_daemon_and_has_few_rights(unit: dict[str, list[str]]) -> None:
    beside, socket = (assignments(UNITS / f"overlayd-containers.{kind}") for kind in ("service", "socket"))
    assert beside["Service.CapabilityBoundingSet"] == ["CAP_SYS_ADMIN CAP_NET_RAW"]
    assert beside["Service.RestrictNamespaces"] == ["net"]
    # It loads no BPF programs.
    assert [*beside["Service.SystemCallFilter"], "bpf"] == unit["Service.SystemCallFilter"]
    assert socket["Socket.SocketMode"] == ["0600"]
    assert socket["Socket.ListenSequentialPacket"] == [str(container_sockets.SOCKET)]
    assert "overlayd-containers.socket" in unit["Unit.Wants"][0].split()


def test_an_old_systemd_that_knows_no_groups_refuses_no_call(unit: dict[str, list[str]]) -> None:
    # systemd before 231 ignores @groups: a list of allowed calls would be empty, and nothing would run. What the first
    # line is decides what the list is; a later one without a tilde takes calls off it.
    *refused, taken_off = unit["Service.SystemCallFilter"]
    for value in refused:
        assert value.startswith("~")
        assert "~" not in value[1:]
    assert taken_off == "bpf"


def test_the_maps_of_bpf_programs_are_not_limited_where_a_kernel_counts_them(unit: dict[str, list[str]]) -> None:
    assert unit["Service.LimitMEMLOCK"] == ["infinity"]


def test_a_systemd_before_240_keeps_tun_devices(unit: dict[str, list[str]]) -> None:
    # Before 240 a comment that ends in a backslash continues on the next line (systemd issue 10598), which hides that
    # line. EL 7 has 219, without BindPaths=; there PrivateDevices= alone would remove /dev/net/tun.
    lines = (UNITS / "overlayd.service").read_text().splitlines()
    assert unit["Service.PrivateDevices"] == ["yes"]
    assert unit["Service.BindPaths"] == ["-/dev/net/tun"]
    hidden = [after for before, after in pairwise(lines) if before.startswith("#") and before.endswith("\\")]
    assert hidden == ["PrivateDevices=yes", "BindPaths=-/dev/net/tun"]


def test_memory_tasks_and_core_dumps_of_the_daemon_are_limited(unit: dict[str, list[str]]) -> None:
    assert unit["Service.MemoryMax"] == ["512M"]
    assert unit["Service.TasksMax"] == ["512"]
    assert unit["Service.LimitCORE"] == ["0"]
    # If the kernel kills a child for its memory, the daemon must live on.
    assert unit["Service.OOMPolicy"] == ["continue"]


def test_each_sandboxing_line_has_a_comment_with_its_reason() -> None:
    text = (UNITS / "overlayd.service").read_text()
    lines = text[text.index("# It may change links, routes") : text.index("[Install]")].splitlines()
    without = [line for before, line in pairwise(lines) if line[:1] not in ("", "#") and not before.startswith("#")]
    # The comment of the line before covers each of these.
    assert [line.partition("=")[0] for line in without] == ["DeviceAllow", "SystemCallFilter"]


def test_only_root_sees_the_folder_that_holds_keys(unit: dict[str, list[str]]) -> None:
    assert unit["Service.StateDirectoryMode"] == ["0700"]
    assert "%dir %attr(0700, root, root) /var/lib/overlayd\n" in (ROOT / "rpm/overlayd.spec").read_text()


def test_the_daemon_reports_readiness_itself_without_a_time_limit(unit: dict[str, list[str]]) -> None:
    assert unit["Service.Type"] == ["notify"]
    assert unit["Service.TimeoutStartSec"] == ["infinity"]


def test_the_daemon_is_restarted_unless_only_a_person_can_mend_it(unit: dict[str, list[str]]) -> None:
    mine = {
        kind.exit_status
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.OverlaydError)
    }
    assert unit["Service.Restart"] == ["always"]
    assert unit["Unit.StartLimitIntervalSec"] == ["0"]
    assert {int(word) for word in unit["Service.RestartPreventExitStatus"][0].split()} == mine - {1}


def test_docker_starts_after_overlayd_and_is_never_stopped_with_it(
    unit: dict[str, list[str]], drop_in: dict[str, list[str]]
) -> None:
    assert "docker.service" in unit["Unit.Before"]
    assert drop_in["Unit.After"] == ["overlayd.service"]
    for bond in ("Requires", "BindsTo", "PartOf", "Upholds", "PropagatesStopTo"):
        assert f"Unit.{bond}" not in unit
        assert f"Unit.{bond}" not in drop_in


def test_a_missing_environment_file_stops_neither_unit(
    unit: dict[str, list[str]], drop_in: dict[str, list[str]]
) -> None:
    for files in (unit["Service.EnvironmentFile"], drop_in["Service.EnvironmentFile"]):
        assert all(path.startswith("-/") for path in files)


def test_files_that_docker_starts_from_outlive_a_restart(unit: dict[str, list[str]]) -> None:
    assert unit["Service.RuntimeDirectory"] == ["overlayd"]
    assert unit["Service.RuntimeDirectoryPreserve"] == ["yes"]
    assert f"/run/{unit['Service.RuntimeDirectory'][0]}" == str(settings.Settings().run_dir)
    assert f"/var/lib/{unit['Service.StateDirectory'][0]}" == str(settings.Settings().state_dir)


def test_no_setting_is_written_into_the_unit(unit: dict[str, list[str]], drop_in: dict[str, list[str]]) -> None:
    # Everybody can read a unit, and `systemctl show` prints Environment=.
    assert "Service.Environment" not in unit
    assert "Service.Environment" not in drop_in


def test_the_command_line_in_the_unit_is_one_that_the_program_takes(unit: dict[str, list[str]]) -> None:
    program, *words = unit["Service.ExecStart"][0].split()
    assert program == "/usr/bin/overlayd"
    assert words[-1] == "$OVERLAYD_OPTIONS"
    assert parser().parse_args(words[:-1]).command == "run"


def test_every_line_of_the_sysconfig_file_is_a_setting_once_it_is_uncommented(tmp_path: Path) -> None:
    lines = (UNITS / "overlayd.sysconfig").read_text().splitlines()
    proposed = [line.removeprefix("#") for line in lines if line.startswith("#OVERLAYD_")]
    assert proposed
    assert all(line.startswith("#") for line in lines if line)
    path = tmp_path / "overlayd"
    path.write_text("\n".join(proposed))
    found = settings.load({}, {}, path)
    assert len(found.etcd_endpoints) == 3


def test_installing_enables_nothing() -> None:
    lines = (UNITS / "overlayd.preset").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["disable overlayd.service"]
