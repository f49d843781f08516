"""Images as the engine makes them in Docker: the changes of a script, and the same bytes from the same commit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from images.bases import catalogue
from images.engine import containers
from images.engine.containers import ImageConfig
from images.engine.graph import Target
from images.engine.process import Stop
from images.engine.runner import Place
from images.engine.step import Step
from images.targets import PLACE
from tests.cluster.checkout import checkout
from tests.cluster.create import ROOT

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
LOOK = "cat /etc/added /etc/ssh/anew /etc/hard /etc/soft; ls /etc/ssh; ls -ln /etc/added; ls /usr/bin/wc /tmp/x || true"


@pytest.fixture
def derived(tmp_path: Path, base: str) -> Iterator[Step]:
    """A step that makes an image out of the probe's by SCRIPT, in the checkout's own layout."""
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


def ids(place: Place) -> dict[str, str]:
    found = {name: place.layout.image(name) for name in place.layout.names() if "test" not in name}
    return {name: image.id for name, image in found.items() if image is not None}


def content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {path.name: path.read_bytes() for path in files}


def without_a_network(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    """`invoke …` in a checkout, in a network namespace that has nothing; Docker is reached by its socket."""
    return subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "invoke", *words],
        cwd=place.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


def test_one_commit_gives_the_same_images_and_rpm_in_another_folder_and_without_a_network(
    tmp_path: Path, base: str
) -> None:
    other = Place(root=tmp_path / "elsewhere")
    checkout(other.root)
    refused = without_a_network(other, "build-all", "--base", base)
    assert refused.returncode == 1
    assert f"base {base}: " in refused.stderr
    assert "does not answer" in refused.stderr
    # What was fetched, and nothing that was made of it: packages become RPMs, and their metadata is signed, anew.
    made = catalogue.get(base).repository_target
    # cp, as a root filesystem has device nodes, which are not to be read.
    cached = other.build / "cache"
    cached.mkdir(parents=True)
    for path in ("stamps", "bases"):
        subprocess.run(["cp", "--archive", PLACE.build / "cache" / path, cached / path], check=True)
    for wheels in (PLACE.build / "cache").glob("wheelhouse-*"):
        subprocess.run(["cp", "--archive", wheels, cached / wheels.name], check=True)
    (cached / f"stamps/{made}.json").unlink()
    done = without_a_network(other, "build-all", "--base", base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{made}: built" in done.stdout
    assert ids(other) == ids(PLACE)
    for name in ("rpm/repo/repodata/repomd.xml", "rpm/facts.json", "images/probe.tar"):
        assert content(other.build / name) == content(PLACE.build / name)
    assert content(other.build / "rpm/repo").keys() == content(PLACE.build / "rpm/repo").keys()
    assert not list(other.build.rglob("*.half"))
