"""The drop-in for docker.service, from the units that real packages install."""

from __future__ import annotations

from pathlib import Path

from overlayd.generator import drop_in, exec_start, main

DOCKER_CE = """\
[Unit]
After=network-online.target docker.socket
[Service]
Type=notify
ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock
ExecReload=/bin/kill -s HUP $MAINPID
"""
DEBIAN = """\
[Service]
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS
"""
CENTOS_7 = """\
[Service]
ExecStart=/usr/bin/dockerd-current \\
          --add-runtime docker-runc=/usr/libexec/docker/docker-runc-current \\
          # a comment in between
          $OPTIONS \\
          $DOCKER_NETWORK_OPTIONS
"""


def install(root: Path, unit: str, *, enabled: bool = True, where: str = "usr/lib/systemd/system") -> None:
    path = root / where / "docker.service"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(unit)
    if enabled:
        link = root / "etc/systemd/system/multi-user.target.wants/overlayd.service"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text("")


def test_docker_ce_keeps_its_flags_and_gets_ours(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    text = drop_in(tmp_path)
    assert text is not None
    lines = text.splitlines()
    cleared = lines.index("ExecStart=")
    assert lines[cleared + 1] == (
        "ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $OVERLAYD_DOCKER_OPTIONS"
    )
    assert "Wants=overlayd.service" in lines
    assert not any(line.startswith(("Requires=", "BindsTo=", "PartOf=")) for line in lines)


def test_debians_and_centos_7s_variables_stay(tmp_path: Path) -> None:
    install(tmp_path, DEBIAN)
    assert "/usr/sbin/dockerd -H fd:// $DOCKER_OPTS $OVERLAYD_DOCKER_OPTIONS" in (drop_in(tmp_path) or "")
    assert exec_start([CENTOS_7]) == [
        "/usr/bin/dockerd-current --add-runtime docker-runc=/usr/libexec/docker/docker-runc-current $OPTIONS "
        "$DOCKER_NETWORK_OPTIONS"
    ]


def test_an_administrators_own_command_counts(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    own = tmp_path / "etc/systemd/system/docker.service.d/own.conf"
    own.parent.mkdir(parents=True)
    own.write_text("[Service]\nExecStart=\nExecStart=/opt/dockerd --debug\n")
    text = drop_in(tmp_path) or ""
    assert "ExecStart=/opt/dockerd --debug $OVERLAYD_DOCKER_OPTIONS" in text
    assert "/usr/bin/dockerd" not in text


def test_a_unit_in_etc_hides_the_packages_one(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    install(tmp_path, DEBIAN, where="etc/systemd/system")
    assert "/usr/sbin/dockerd" in (drop_in(tmp_path) or "")


def test_nothing_is_written_unless_overlayd_is_enabled_and_docker_installed(tmp_path: Path) -> None:
    assert drop_in(tmp_path) is None
    install(tmp_path, DOCKER_CE, enabled=False)
    assert drop_in(tmp_path) is None


def test_without_systemds_argument_it_fails() -> None:
    assert main([]) == 2
