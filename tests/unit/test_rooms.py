"""No module is in a circle; the order of rooms in images/, rpm/ and pipeline/: each imports only those below it.

The order of the daemon's rooms is ARCHITECTURE.md's (test_documents.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.rooms import between_rooms, circles, imports_between, upward

ROOT = Path(__file__).resolve().parents[2]
# From the lowest to the highest.
ROOMS = (
    "images.engine",
    "images.signing",
    "images.bases",
    "images.layered_image",
    "images.base",
    "images.builder",
    "images.docker",
    "images.etcd",
    "images.probe",
    "images.host",
    "images.machine",
    "images.recipes",
    "images.ship",
    "rpm",
    "pipeline",
)
# What a room uses of those below it, where that is less than all.
USES = {
    "images.signing": {"images.engine"},
    "images.bases": {"images.engine", "images.signing"},
    "images.recipes": {
        *("images.engine", "images.bases", "images.base", "images.builder", "images.docker", "images.etcd"),
        *("images.host", "images.machine", "images.probe"),
    },
    "rpm": {"images.engine", "images.bases"},
}
EDGES = {
    name: used
    for name, used in imports_between(*(ROOT / name for name in ("images", "rpm", "pipeline"))).items()
    # The etcd image's own programs run there, and are a package of their own.
    if ".files." not in name and name != "images"
}


def test_no_module_imports_another_in_a_circle() -> None:
    assert circles(EDGES) == []
    assert circles(imports_between(ROOT / "daemon/overlayd")) == []


def test_each_room_imports_only_rooms_below_it() -> None:
    assert upward(EDGES, ROOMS) == []


def test_images_and_the_rpm_do_not_know_each_other() -> None:
    found = between_rooms(EDGES, ROOMS)
    assert {room: set(found[room]) for room in USES} == USES
    assert [room for room, used in found.items() if room.startswith("images") and used & {"rpm", "pipeline"}] == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package of four modules; `one` and `two` import each other, one of them in a function."""
    package = tmp_path / "tree"
    (package / "room").mkdir(parents=True)
    for name, text in {
        "__init__": "VALUE = 1",
        "one": "from tree import two, VALUE",
        "two": "def run():\n    import tree.one",
        "room/__init__": "",
        "room/three": "from importlib import import_module\nimport_module('tree.one')\nimport_module(f'tree.room.{x}')",
        "room/four": "import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tree.one import x",
    }.items():
        (package / f"{name}.py").write_text(text)
    return package


def test_imports_are_found_wherever_they_stand(tree: Path) -> None:
    assert imports_between(tree) == {
        "tree": frozenset(),
        "tree.one": {"tree.two", "tree"},
        "tree.two": {"tree.one"},
        "tree.room": frozenset(),
        "tree.room.three": {"tree.one", "tree.room.four"},
        "tree.room.four": {"tree.one"},
    }


def test_a_circle_is_named_by_its_modules(tree: Path) -> None:
    assert circles(imports_between(tree)) == [["tree.one", "tree.two"]]
    assert circles({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a"), "d": frozenset("a")}) == [
        ["a", "b", "c"]
    ]


def test_an_import_that_breaks_the_order_is_named(tree: Path) -> None:
    edges = imports_between(tree)
    assert upward(edges, ["tree", "tree.room"]) == []
    assert upward(edges, ["tree.room", "tree"]) == [
        "tree.room.four imports tree.one",
        "tree.room.three imports tree.one",
    ]
    assert between_rooms(edges, ["tree", "tree.room"]) == {"tree": frozenset(), "tree.room": {"tree"}}
