"""The cgroups of removed hosts are removed."""

from __future__ import annotations

from pathlib import Path

from tests.testbed.cluster import cgroups


def test_only_the_named_containers_empty_cgroups_are_removed(tmp_path: Path) -> None:
    for path in ("memory/docker/aaa/system.slice/ssh.service", "memory/docker/bbb", "docker/aaa/init.scope"):
        (tmp_path / path).mkdir(parents=True)
    busy = tmp_path / "pids" / "docker" / "aaa" / "user.slice"
    busy.mkdir(parents=True)
    (busy / "holds").touch()
    cgroups.sweep(["aaa"], tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("**/*/*") if path.is_dir())
    assert left == [
        "memory/docker",
        "memory/docker/bbb",
        "pids/docker",
        "pids/docker/aaa",
        "pids/docker/aaa/user.slice",
    ]
