"""The image of etcd: its process, and its data after container and image are gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from images.etcd import release
from images.etcd.recipe import SCRIPT, USER_ID, VOLUME
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.docker_engine import client, outcome
from tests.testbed.cluster.etcd_image import LABEL, cluster_id, run, serves
from tests.testbed.cluster.images import image_of
from tests.testbed.polling import eventually

pytestmark = pytest.mark.lane("builds")


def test_a_release_is_installed_where_no_package_is(base: str, tmp_path: Path) -> None:
    # A base with a package of etcd does not use this script; the test runs it there too.
    files = Path("images/etcd/files/usr/libexec/etcd")
    shutil.copytree(ROOT / files, tmp_path / "libexec", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "release/licences").mkdir(parents=True)
    shutil.copy(ROOT / release.OWN_LICENCE, tmp_path / "release/licences")
    for program in release.PROGRAMS:
        where = shutil.which(program)
        assert where is not None
        shutil.copy(where, tmp_path / "release" / program)
    said = client().containers.run(
        image_of("base", base),
        ["sh", "-euc", f"{release.INSTALL_SCRIPT}{SCRIPT}\nid etcd; stat --format '%u:%g %a' {VOLUME}"],
        volumes=[
            f"{tmp_path}/release:{release.MOUNT}:ro",
            f"{tmp_path}/libexec:/{files.relative_to('images/etcd/files')}",
        ],
        network_mode="none",
        remove=True,
    )
    assert said.decode().splitlines()[-2:] == [
        f"uid={USER_ID}(etcd) gid={USER_ID}(etcd) groups={USER_ID}(etcd)",
        f"{USER_ID}:{USER_ID} 700",
    ]


def _rebuild(base: str) -> None:
    argv = [sys.executable, "-m", "invoke", "images.build", "--base", base, "--target", "images.etcd", "--force"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["volume", "folder"])
def test_data_outlives_a_killed_container_and_its_image(base: str, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, USER_ID, USER_ID)
    volume = client().volumes.create() if kind == "volume" else None
    place = volume.name if volume else str(folder)
    try:
        first = run(base, place)
        serves(first)
        assert outcome(first, "etcdctl", "put", "here", "still")[0] == 0
        cluster = cluster_id(first)
        first.kill("SIGKILL")
        first.remove()
        if volume:
            _rebuild(base)
        second = run(base, place)
        serves(second)
        assert outcome(second, "etcdctl", "get", "here") == (0, "here\nstill\n")
        assert cluster_id(second) == cluster
        _check_process(second)
        second.remove(v=True)
    finally:
        for left in client().containers.list(all=True, filters={"label": LABEL, "volume": place}):
            left.remove(force=True)
        if volume:
            volume.remove()


def _check_process(container: Container) -> None:
    """etcd is process 1, runs as its own user without capabilities, and ends with status 0 on `docker stop`."""
    eventually("Docker says healthy", lambda: _docker_health(container) == "healthy")
    status = dict(line.split(":\t", 1) for line in outcome(container, "cat", "/proc/1/status")[1].splitlines())
    assert (status["Name"], status["NoNewPrivs"], int(status["CapBnd"], 16)) == ("etcd", "1", 0)
    assert status["Uid"].split() == status["Gid"].split() == [str(USER_ID)] * 4
    began = time.monotonic()
    container.stop(timeout=10)
    took = time.monotonic() - began
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    assert took < 5


def _docker_health(container: Container) -> str:
    container.reload()
    state: Mapping[str, Any] = container.attrs["State"]
    return str(state["Health"]["Status"])
