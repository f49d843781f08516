"""Two checkouts of different commits build on one dockerd at the same time, while somebody moves image names."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound

from images.engine import docker_images
from images.engine.place import PLACE, Place
from images.engine.tags import own_tag
from tests.testbed.cluster.checkout import checkout, commit, give_what_is_built
from tests.testbed.cluster.packaged import tar

pytestmark = pytest.mark.lane("builds")

# A file in the base image, and in the etcd image that is made from it.
MARKS = ("images/base/files/usr/share/mark-of-base", "images/etcd/files/usr/share/mark-of-etcd")
LOOK = "cat /usr/share/mark-of-base /usr/share/mark-of-etcd; ls /intruder 2>&1"


@pytest.fixture
def checkouts(tmp_path: Path) -> Iterator[list[Place]]:
    """Two checkouts, each with its own commit that changes base and etcd."""
    places = [Place(root=tmp_path / name) for name in ("one", "two")]
    for place in places:
        checkout(place.root)
        give_what_is_built(place.root)
        for path in MARKS:
            (place.root / path).parent.mkdir(parents=True, exist_ok=True)
            (place.root / path).write_text(f"{place.root.name}\n")
        commit(place.root, place.root.name, Path())
    yield places
    for place in places:
        docker_images.forget(place.owner)


@contextmanager
def intruder(names: list[str]) -> Iterator[None]:
    """A thread that again and again gives the names to another image, which has our labels and one file more."""
    client = docker.from_env()
    container = client.containers.create(names[0], ["true"], network_mode="none")
    try:
        container.put_archive("/", tar({"intruder": b""}))
        image = container.commit("overlayd/test-intruder", "latest")
    finally:
        container.remove(force=True)
    enough = threading.Event()

    def move() -> None:
        while not enough.wait(0.05):
            for name in names:
                image.tag(name)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        client.images.remove("overlayd/test-intruder:latest")
        client.close()


def invoke(place: Place, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", *words],
        cwd=place.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_two_checkouts_build_at_once_and_each_has_its_own(checkouts: list[Place], base: str) -> None:
    names = [f"overlayd/{what}:{base}" for what in ("base", "etcd")]
    before = {name: PLACE.layout.image(name) for name in names}
    client = docker.from_env()
    with intruder(names):
        both = [invoke(place, "images.etcd", "--base", base) for place in checkouts]
        for process in both:
            assert "images.etcd: built" in ended(process)
        for place in checkouts:
            own = client.images.get(own_tag(place.owner, names[1]))
            made = place.layout.image(names[1])
            assert made is not None
            assert [layer.digest for layer in made.layers] == own.attrs["RootFS"]["Layers"]
            shown = client.containers.run(
                str(own.id),
                ["sh", "-c", f"{LOOK} || true"],
                user="root",
                remove=True,
                stderr=True,
                network_mode="none",
                labels={"org.overlayd": "test"},
            )
            assert shown.decode().splitlines()[:2] == [place.root.name] * 2
            assert "No such file" in shown.decode()
    # The results of this checkout are unchanged, and it notices that other images have the names.
    assert {name: PLACE.layout.image(name) for name in names} == before
    for name in names:
        assert client.images.get(name).id != client.images.get(own_tag(PLACE.owner, name)).id
    said = ended(invoke(PLACE, "images.etcd", "--base", base))
    for name, target in zip(names, ("images.base", "images.etcd"), strict=True):
        assert f"{target}: given to Docker" in said
        assert client.images.get(name).id == client.images.get(own_tag(PLACE.owner, name)).id
    assert "nothing to do" in ended(invoke(PLACE, "images.etcd", "--base", base))
    client.close()


def test_images_of_a_deleted_checkout_are_removed_on_request_and_by_no_build(tmp_path: Path, base: str) -> None:
    client = docker.from_env()
    gone, name = str(tmp_path / "gone/build"), f"overlayd/probe:{base}"
    left, of_gone = own_tag(str(tmp_path), f"new-left-probe:{base}"), own_tag(gone, name)
    kept = own_tag(str(tmp_path), name)
    for tag in (left, of_gone, kept):
        client.images.get(name).tag(tag)
    try:
        assert docker_images.remove_leftovers(str(tmp_path)) == [left]
        with pytest.raises(NotFound):
            client.images.get(left)
        assert client.images.get(kept).id == client.images.get(of_gone).id == client.images.get(name).id
    finally:
        assert {kept, of_gone} <= set(docker_images.forget(str(tmp_path), gone=True).removed)
        client.close()


def test_an_image_of_a_deleted_checkout_that_a_container_uses_is_left_and_the_others_are_removed(
    tmp_path: Path, base: str
) -> None:
    # A name of its own: Docker removes one of several names of an image although a container was made by it.
    client = docker.from_env()
    used, free = (own_tag(str(tmp_path / f"gone/{name}"), f"overlayd/only:{base}") for name in ("a", "b"))
    layers_of = client.containers.create(f"overlayd/probe:{base}", network_mode="none", labels={"org.overlayd": "test"})
    try:
        for tag in (used, free):
            repository, _, version = tag.rpartition(":")
            layers_of.commit(repository=repository, tag=version)
        layers_of.remove()
        container = client.containers.create(used, network_mode="none", labels={"org.overlayd": "test"})
        try:
            removed, in_use = docker_images.forget(str(tmp_path), gone=True)
            assert used in in_use
            assert used not in removed
            assert free in removed
            client.images.get(used)
        finally:
            container.remove()
        assert used in docker_images.forget(str(tmp_path), gone=True).removed
    finally:
        with contextlib.suppress(NotFound):
            layers_of.remove()
        client.close()
