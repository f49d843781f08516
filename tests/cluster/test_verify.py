"""`rpm -Va` in containers of the images finds only what a list expects, with reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from images.bases import catalogue
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.docker_engine import client

LIST = ROOT / "images/bases/debian/rpm-va.txt"


def excused(file: Path) -> dict[str, str]:
    """The reason for every path that may differ."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {path: reason.strip() for path, _, reason in (line.partition(" ") for line in lines)}


def test_every_entry_of_the_list_has_a_reason() -> None:
    assert all(path.startswith("/") and len(reason) > 10 for path, reason in excused(LIST).items())


@pytest.mark.parametrize("image", ["base", "docker", "host"])
def test_files_are_as_their_packages_installed_them(base: str, image: str) -> None:
    if catalogue.get(base).signed:
        pytest.skip(f"the packages of {base} are the distribution's own, and so is what their scripts change")
    container = client().containers.create(
        f"overlayd/{image}:{base}",
        ["-c", "rpm -qa | wc -l; rpm -Va || true"],
        entrypoint="/bin/sh",
        network_mode="none",
    )
    try:
        container.start()
        assert container.wait(timeout=120)["StatusCode"] == 0
        count, *said = container.logs().decode().splitlines()
    finally:
        container.remove(force=True, v=True)
    assert int(count) > 100
    # Nine flags, or "missing"; optionally the kind of file; the path.
    assert {line: None for line in said if line.split()[-1] not in excused(LIST)} == {}
