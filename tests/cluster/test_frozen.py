"""The frozen program brings all it needs: it runs in an image that holds nothing else, not even a C library."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

from overlayd import __version__
from rpm.targets import FROZEN, INSTALLED
from tests.cluster.create import ROOT
from tests.cluster.docker_engine import client

LABEL = "org.overlayd.cluster=frozen"


@pytest.fixture(scope="module")
def nothing_but_the_program() -> Iterator[str]:
    """The id of an image of the frozen program alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(ROOT / "build" / FROZEN, arcname=INSTALLED.lstrip("/"))
    answer = client().api.import_image_from_data(packed.getvalue(), changes=[f"LABEL {LABEL}"])
    image = answer.strip().rpartition('"status":"')[2].partition('"')[0]
    try:
        yield image
    finally:
        client().images.remove(image, force=True)


def run(image: str, *words: str) -> tuple[int, str]:
    """Run the program in a container without a network; its exit status and all it said."""
    name, _, value = LABEL.partition("=")
    container = client().containers.create(
        image, [f"{INSTALLED}/overlayd", *words], network_mode="none", labels={name: value}
    )
    try:
        container.start()
        status = int(container.wait()["StatusCode"])
        return status, container.logs().decode()
    finally:
        container.remove(force=True, v=True)


def test_it_starts_where_there_is_no_c_library(nothing_but_the_program: str) -> None:
    assert run(nothing_but_the_program, "--version") == (0, f"overlayd {__version__}\n")


def test_grpc_etcd3_and_pyroute2_load_from_the_frozen_program(nothing_but_the_program: str) -> None:
    # `check` imports them all, then finds that a container without a network has no interface to use.
    status, said = run(nothing_but_the_program, "check")
    assert status == 2, said
    assert "Traceback" not in said
    assert "PYI" not in said
