"""What others configure dockerd with is read again only where a file may be another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from overlayd.docker import dockerd_config
from overlayd.docker.dockerd_config import ALL_S, DockerdConfig, DockerdConfigReader, read_dockerd_config

UNIT = "usr/lib/systemd/system/docker.service"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a docker.service that reads files with variables."""
    for folder in (
        "usr/lib/systemd/system",
        "etc/systemd/system/docker.service.d",
        "etc/default/more",
        "etc/docker",
        "run/systemd",
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "aside/docker.service.d").mkdir(parents=True)
    (tmp_path / "aside/docker.service.d/a.conf").write_text(
        "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --mtu=1400\n"
    )
    (tmp_path / UNIT).write_text(
        "[Service]\nEnvironmentFile=-/etc/default/docker\nEnvironmentFile=-/etc/default/more/*.env\n"
        "ExecStart=/usr/bin/dockerd $DOCKER_OPTS $MORE\n"
    )

    def read(*, daemon_json: Path | None = None) -> DockerdConfig:
        reads.append(daemon_json)
        return read_dockerd_config(root=tmp_path, daemon_json=daemon_json)

    monkeypatch.setattr(dockerd_config, "read_dockerd_config", read)
    reads.clear()
    return tmp_path


reads: list[Path | None] = []

CHANGES: dict[str, Callable[[Path], object]] = {
    "the unit": lambda root: (root / UNIT).write_text("[Service]\nExecStart=/usr/bin/dockerd --mtu=1400\n"),
    "another unit above it": lambda root: (root / "etc/systemd/system/docker.service").write_text(
        "[Service]\nExecStart=/usr/bin/dockerd --mtu=1400\n"
    ),
    "a drop-in that comes": lambda root: (root / "etc/systemd/system/docker.service.d/a.conf").write_text(
        "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --mtu=1400\n"
    ),
    "a folder of drop-ins that comes": lambda root: (root / "aside").rename(root / "run/systemd/system"),
    "a file of variables": lambda root: (root / "etc/default/docker").write_text("DOCKER_OPTS=--mtu=1400\n"),
    "one by a wildcard": lambda root: (root / "etc/default/more/a.env").write_text("MORE=--mtu=1400\n"),
    "daemon.json": lambda root: (root / "etc/docker/daemon.json").write_text('{"mtu": 1400}'),
}


def test_while_no_file_changes_none_is_read(root: Path) -> None:
    now = 0.0
    reader = DockerdConfigReader(clock=lambda: now)
    first = reader.read()
    reader.read()
    # The paths to look at were not known before the first read.
    assert len(reads) == 2
    for _ in range(10):
        assert reader.read() == first
    assert len(reads) == 2
    now = ALL_S
    reader.read()
    assert len(reads) == 3
    assert (root / UNIT).exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_once(root: Path, change: str) -> None:
    reader = DockerdConfigReader(clock=lambda: 0.0)
    for _ in range(3):
        assert reader.read().settings.get("mtu") is None
    CHANGES[change](root)
    assert str(reader.read().settings["mtu"]) == "1400"


def test_a_changed_drop_in_of_the_same_size_and_time_is_seen(root: Path) -> None:
    path = root / "etc/systemd/system/docker.service.d/a.conf"
    path.write_text("[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --mtu=1400\n")
    os.utime(path, (1, 1))
    reader = DockerdConfigReader(clock=lambda: 0.0)
    for _ in range(3):
        assert reader.read().settings["mtu"] == "1400"
    path.write_text("[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --mtu=1300\n")
    os.utime(path, (1, 1))
    assert reader.read().settings["mtu"] == "1300"
