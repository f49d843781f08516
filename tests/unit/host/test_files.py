"""The files that docker starts from: not before they are published, then always as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

import pytest

from overlayd.errors import OverlaydError
from overlayd.host.docker import DockerPart
from overlayd.host.files import FilesPart
from overlayd.host.host import COMES, FastPathOncePublished
from overlayd.host.parts import DesiredHost, PartReport
from overlayd.leases.subnets import Subnets
from tests.unit.host.values import DirectedBackend, context, lease

DESIRED = DesiredHost(lease=lease(1))
SUBNET_ENV = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


class Docker:
    """A DockerPart as the files know it."""

    def record(self, subnets: Subnets) -> str:
        """The text of docker.json."""
        return f'{{"subnet": "{subnets.v4}"}}\n'

    def env_file(self) -> str:
        """The text of docker.env."""
        return "OVERLAYD_DOCKER_OPTIONS=--bip=10.5.1.1/24\n"


def test_nothing_is_written_before_it_is_published(tmp_path: Path) -> None:
    files = FilesPart(context(DirectedBackend(), tmp_path), None)
    assert files.sync(DESIRED).problems == ()
    assert list(tmp_path.iterdir()) == []


def test_published_files_are_written_again_when_they_are_gone(tmp_path: Path) -> None:
    files = FilesPart(context(DirectedBackend(), tmp_path), None)
    files.publish(DESIRED.lease)
    (tmp_path / "subnet.env").unlink()
    assert files.sync(DESIRED).problems == ()
    assert (tmp_path / "subnet.env").read_text() == SUBNET_ENV
    assert [path.name for path in tmp_path.iterdir()] == ["subnet.env"]


def test_docker_finds_its_options_after_all_other_files_are_there(tmp_path: Path) -> None:
    files = FilesPart(context(DirectedBackend(), tmp_path), cast("DockerPart", Docker()))
    files.publish(DESIRED.lease)
    newest = max(tmp_path.rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "docker.env"
    assert newest.read_text() == "OVERLAYD_DOCKER_OPTIONS=--bip=10.5.1.1/24\n"


def test_a_disk_that_refuses_is_raised_at_first_and_a_problem_later(tmp_path: Path) -> None:
    folder = tmp_path / "file" / "below"
    (tmp_path / "file").write_text("not a folder")
    files = FilesPart(context(DirectedBackend(), folder), None)
    with pytest.raises(OverlaydError, match="cannot write the files that docker starts from"):
        files.publish(DESIRED.lease)
    files = FilesPart(context(DirectedBackend(), tmp_path), None)
    files.publish(DESIRED.lease)
    (tmp_path / "subnet.env").unlink()
    (tmp_path / "subnet.env").mkdir()
    (problem,) = files.sync(DESIRED).problems
    assert problem.startswith("cannot write the files")


def test_the_fast_path_comes_after_the_files_that_docker_waits_for(tmp_path: Path) -> None:
    files, calls = FilesPart(context(DirectedBackend(), tmp_path), None), list[str]()

    class FastPath:
        """A FastPathPart as the host knows it."""

        name: ClassVar[str] = "fast path"

        def sync(self, _desired: DesiredHost) -> PartReport:
            calls.append(f"sync, {sorted(path.name for path in tmp_path.iterdir())}")
            return PartReport(status={"fast_path": "on"})

        def close(self) -> None:
            calls.append("close")

    part = FastPathOncePublished(FastPath(), files)
    assert (part.sync(DESIRED).status["fast_path"], calls) == (COMES, [])
    files.publish(DESIRED.lease)
    assert part.sync(DESIRED).status == {"fast_path": "on"}
    part.close()
    assert calls == ["sync, ['subnet.env']", "close"]
