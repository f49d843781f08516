"""A build is stopped, killed, or has no room: earlier results stay, no partial result is left, the next build works."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from images.bases import catalogue
from images.engine.annotations import LABEL_BUILD
from images.engine.place import PLACE, Place
from pipeline.targets import of_base
from tests.testbed.cluster.checkout import checkout
from tests.testbed.cluster.invoked import invoked_well
from tests.testbed.polling import eventually

pytestmark = pytest.mark.lane("builds")

DEADLINE_S = 120.0
TRIES = 5
FILLER = "filler"
PHASES = (
    "bases.debian12-rpm.root",
    "bases.debian12-rpm.repository",
    "images.base",
    "images.builder",
    "images.docker",
    "images.etcd",
    "images.probe",
    "images.probe.tar",
    "images.host",
    "rpm.wheelhouse",
    "rpm.freezer",
    "rpm.bpf",
    "rpm.freeze",
    "rpm.docs",
    "rpm.inventory",
    "rpm.licences",
    "rpm.build",
)


# Of the disk of a machine, which build-all does not make.
DISK_PHASES = ("images.machine.linux-bookworm.packages", "images.machine.linux-bookworm", "images.machine")


class Build:
    """`invoke images.build` of one target, as a child process, which gets the signals."""

    def __init__(self, place: Place, base: str, target: str, *options: str) -> None:
        self.place = place
        self.target = target
        self.child = subprocess.Popen(
            [sys.executable, "-m", "invoke", "images.build", "--base", base, "--target", target, *options],
            cwd=place.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def scratch(self) -> Path:
        return self.place.build / "tmp" / self.target

    def under_way(self) -> bool:
        """Wait until the step has begun, which its scratch folder shows; False where the build ended unseen."""
        # It polls without a pause, as the quickest step takes only some hundredths of a second.
        deadline = time.monotonic() + DEADLINE_S
        while not self.scratch.exists():
            if self.child.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"{self.target} does not begin"
        return True

    def wait_until_nearly_done(self) -> None:
        """Whether the result is in the scratch folder and not yet in its final place."""
        eventually(
            f"{self.target} has something",
            lambda: (
                any(self.scratch.glob("layer.tar")) or any(self.scratch.glob("out/*")) or self.child.poll() is not None
            ),
            timeout_s=DEADLINE_S,
        )

    def end(self, number: int) -> tuple[int, str]:
        self.child.send_signal(number)
        out, _ = self.child.communicate(timeout=DEADLINE_S)
        return self.child.returncode, out


def state(place: Place) -> dict[str, object]:
    """All that a stopped build must not change: what has its final name, in the layout and in Docker."""
    client = docker.from_env()
    try:
        tags = {tag: image.id for image in client.images.list() for tag in image.tags}
        containers = client.containers.list(all=True, filters={"label": f"{LABEL_BUILD}={place.owner}"})
    finally:
        client.close()
    files = [
        path
        for name in ("rpm", "images", "stamps", "cache/stamps", "cache/bases")
        for folder, _, names in os.walk(place.build / name)
        if "root" not in Path(folder).relative_to(place.build).parts
        for path in (Path(folder, name) for name in names)
    ]
    return {
        "tags": tags,
        "containers": [container.id for container in containers],
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(place.root) in line],
        "loops": subprocess.check_output(["losetup", "--list", "--noheadings"], text=True),
        "index": json.loads(index.read_text()) if (index := place.build / "oci/index.json").exists() else {},
        # Compared by content, as a target may have been built again before the signal. A root is replaced as a whole.
        "outputs": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "roots": [path.stat().st_ino for path in place.build.glob("cache/bases/*/root")],
        "scratch": [path.name for path in (place.build / "tmp").glob("*")],
        "half": [path.name for path in place.build.rglob("*.half") if "cache" not in path.parts],
    }


@pytest.fixture(scope="module", autouse=True)
def all_is_built_before_and_after(base: str) -> Iterator[None]:
    invoked_well("build-all", "--base", base)
    yield
    assert "nothing to do" in invoked_well("build-all", "--base", base), "an interrupted build changed what was built"


def test_every_phase_is_tried(base: str) -> None:
    # Kernels of other suites are made by the same steps.
    others = {name for name in of_base(catalogue.get(base)) if "linux-" in name and "linux-bookworm" not in name}
    assert {*PHASES, *DISK_PHASES} == {*of_base(catalogue.get(base))} - others


def interrupted(base: str, target: str) -> tuple[int, str]:
    """Build a target and send SIGINT while its step is under way; exit status and output.

    On a busy machine a quick step is over before the signal comes: then once more.
    """
    status, said = 0, ""
    for _ in range(TRIES):
        build = Build(PLACE, base, target, "--force")
        build.under_way()
        status, said = build.end(signal.SIGINT)
        if status != 0:
            break
    return status, said


@pytest.mark.parametrize("target", [*PHASES, *(pytest.param(name, marks=pytest.mark.slow) for name in DISK_PHASES)])
def test_ctrl_c_in_any_phase_leaves_all_as_it_was(base: str, target: str) -> None:
    if target in DISK_PHASES:
        invoked_well("images.build", "--base", base, "--target", "images.machine")
    before = state(PLACE)
    status, said = interrupted(base, target)
    assert status == 130, said
    assert "stopped; unfinished results are removed" in said
    assert "Traceback" not in said
    assert state(PLACE) == before


@pytest.mark.parametrize("target", ["images.docker", "rpm.build", "images.probe"])
def test_ctrl_c_shortly_before_the_end_leaves_all_as_it_was(base: str, target: str) -> None:
    before = state(PLACE)
    build = Build(PLACE, base, target, "--force")
    build.wait_until_nearly_done()
    status, said = build.end(signal.SIGINT)
    # The build may have ended before the signal.
    assert status in {130, 0}, said
    assert {**state(PLACE), "outputs": 0, "index": 0} == {**before, "outputs": 0, "index": 0}


def test_what_a_killed_build_left_is_removed_by_the_next(base: str) -> None:
    before = state(PLACE)
    build = Build(PLACE, base, "images.docker", "--force")
    assert build.under_way(), build.child.communicate()
    eventually("its container runs", lambda: state(PLACE)["containers"], timeout_s=DEADLINE_S)
    build.end(signal.SIGKILL)
    next_one = Build(PLACE, base, "images.probe.tar", "--force")
    said, _ = next_one.child.communicate(timeout=DEADLINE_S)
    assert next_one.child.returncode == 0, said
    assert "removed what a killed build left: container" in said
    assert {**state(PLACE), "outputs": 0} == {**before, "outputs": 0}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Place]:
    """A checkout whose build folder is a disk with 40 MiB free, on a loop device; fetched packages are elsewhere."""
    place = Place(root=tmp_path / "small")
    checkout(place.root)
    image = tmp_path / "disk"
    subprocess.run(["truncate", "--size=640M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    place.build.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place.build], check=True)
    try:
        (place.build / "cache").symlink_to(PLACE.build / "cache")
        filler = os.statvfs(place.build).f_bavail * os.statvfs(place.build).f_bsize - (40 << 20)
        subprocess.run(["fallocate", f"--length={filler}", place.build / FILLER], check=True)
        yield place
    finally:
        subprocess.run(["umount", place.build], check=True)


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_next_build_works(small_disk: Place, base: str) -> None:
    for target in ("images.base", "images.probe"):
        build = Build(small_disk, base, target)
        said, _ = build.child.communicate(timeout=DEADLINE_S)
        assert build.child.returncode == 1, said
        # dnf computes the needed room beforehand; its `/` is the root into which it installs.
        assert "o space left on device" in said or "more space needed" in said
        assert f"MiB were free where {small_disk.build} lies" in said
        assert "Traceback" not in said
        found = state(small_disk)
        assert found["scratch"] == found["half"] == found["containers"] == []
        assert not list(small_disk.build.glob("images/*"))
    free = os.statvfs(small_disk.build)
    assert free.f_bavail * free.f_bsize > 30 << 20, "what failed has left its room to others"
    (small_disk.build / FILLER).unlink()
    build = Build(small_disk, base, "images.probe")
    said, _ = build.child.communicate(timeout=DEADLINE_S)
    assert build.child.returncode == 0, said
