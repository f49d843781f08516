"""Images that the engine makes in Docker: a script's changes are in them, and a lost image is loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from images.engine import containers, docker_images
from images.engine.containers import ImageConfig
from images.engine.graph import Target
from images.engine.place import PLACE
from images.engine.process import Stop
from images.engine.step import Step
from tests.testbed.cluster.create import ROOT

pytestmark = pytest.mark.lane("builds")

EPOCH = 1_700_000_000
SCRIPT = """\
echo new >/etc/added
rm /usr/bin/wc
rm -r /etc/ssh
mkdir /etc/ssh
echo inside >/etc/ssh/anew
ln /etc/added /etc/hard
ln -s added /etc/soft
chmod 4711 /etc/added
echo not kept >/tmp/x
"""
LOOK = "cat /etc/added /etc/ssh/anew /etc/hard /etc/soft; ls /etc/ssh; ls -ln /etc/added; ls /usr/bin/wc /tmp/x 2>&1; :"


@pytest.fixture
def derived(tmp_path: Path, base: str) -> Iterator[Step]:
    """A step that makes an image from the probe's with SCRIPT, in the checkout's layout."""
    target = Target(name="test.derived", build=lambda _: None, inputs={}, image=f"overlayd/test-derived:{base}")
    with (tmp_path / "log").open("wb", buffering=0) as log:
        step = Step(
            target=target,
            inputs={"n": "1"},
            root=ROOT,
            build=PLACE.build,
            scratch=tmp_path,
            log=log,
            stop=Stop(),
            owner=str(tmp_path),
            epoch=EPOCH,
            layout=PLACE.layout,
        )
        try:
            yield step
        finally:
            step.abandon()
            PLACE.layout.collect()
            docker_images.forget(step.owner)


def test_everything_that_a_script_changes_is_in_the_image(derived: Step, base: str) -> None:
    config = ImageConfig(description="of a test", command=("sh",), stop_signal="SIGINT", healthcheck=("true",))
    found = []
    for _ in range(2):
        derived.run_and_commit(f"overlayd/base:{base}", SCRIPT, config)
        assert derived.made is not None
        found.append(derived.made.id)
    assert found[0] == found[1]
    client = docker.from_env()
    image = client.images.get(found[0])
    assert image.attrs["Config"]["StopSignal"] == "SIGINT"
    assert image.attrs["Config"]["Healthcheck"]["Test"] == ["CMD", "true"]
    assert image.attrs["Created"].startswith("2023-11-14T22:13:20")
    out = client.containers.run(
        found[0], ["sh", "-c", LOOK], remove=True, network_mode="none", stderr=True, labels={"org.overlayd": "test"}
    )
    lines = out.decode().splitlines()
    assert lines[:5] == ["new", "inside", "new", "new", "anew"]
    assert lines[5].startswith("-rws--x--x 2 0 0 4 Nov 14 ")
    assert sum("cannot access" in line for line in lines) == 2
    client.close()


def test_an_image_that_docker_lost_is_given_to_it_again(derived: Step, base: str) -> None:
    derived.run_and_commit(f"overlayd/base:{base}", SCRIPT, ImageConfig(description="of a test", command=("sh",)))
    derived.finish()
    made = derived.made
    assert made is not None
    with containers.engine() as client:
        client.remove_image(made.name)
    try:
        assert derived.recover()
        with containers.engine() as client:
            assert client.inspect_image(made.name)["Id"] == made.id
    finally:
        with containers.engine() as client:
            client.remove_image(made.name)
