"""Every file that can change a result is an input: the targets in the plan are those that differ after a build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from images.bases import catalogue
from images.engine import docker_images
from images.engine.place import Place
from pipeline.targets import of_base
from rpm import source
from tests.cluster.test_reproducible import content, ids
from tests.testbed.cluster.checkout import checkout, commit, give_what_is_built
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.invoked import invoked_well
from tests.testbed.cluster.planned import append, flip_mode, make_link

pytestmark = pytest.mark.lane("builds")

# Files that are input of no target, and why they need not be.
NOT_COUNTED = re.compile(
    r"""images/(README|base/README|bases/README|[a-z]+/README)\.md   # for people
    |images/recipes\.py|images/engine/why\.py                      # which images there are; a plan in words
    |images/bases/(choose|mirrors)\.py                              # which base
    |images/bases/(centos|debian/entry|catalogue/[a-z0-9_]+)\.py     # values, which count as such
    |images/bases/debian/rpm-va\.txt                              # looks at what is built
    |images/bases/fetch\.py                                         # of bases whose packages are fetched by dnf
    |images/mirrors\.toml                                           # where packages come from; keys say which they are
    |images/[a-z0-9]+/__init__\.py|images/bases/debian/__init__\.py|rpm/[a-z]+/__init__\.py
    |images/engine/(dockerd|lock|preflight)\.py                     # before a build begins
    |images/etcd/release\.py                                        # of bases without a package of etcd
    |images/ship/.*                                                 # made of what is built
    |rpm/rpmlint\.toml                                              # looks at what is built
    """,
    re.VERBOSE,
)
# A later commit with the release and the times of the earlier one, so that only file contents differ.
SAME_COMMIT = {source.NUMBER: "1", "SOURCE_DATE_EPOCH": "1790000000"}


def files() -> list[str]:
    """git's files in images/ and rpm/."""
    listed = subprocess.run(["git", "ls-files", "images", "rpm"], cwd=ROOT, check=True, capture_output=True, text=True)
    return listed.stdout.splitlines()


def counted(base: str) -> dict[str, set[str]]:
    """The targets that each file is an input of."""
    found: dict[str, set[str]] = {}
    for name, target in of_base(catalogue.get(base)).items():
        for key in target.inputs:
            kind, _, path = key.partition(" ")
            if kind in ("file", "code"):
                found.setdefault(path, set()).add(name)
    return found


def test_each_file_is_an_input_or_is_listed_as_irrelevant(base: str) -> None:
    found = counted(base)
    assert not [path for path in files() if path not in found and not NOT_COUNTED.fullmatch(path)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A checkout that starts with the results of this one."""
    found = Place(root=tmp_path / "checkout")
    checkout(found.root)
    give_what_is_built(found.root)
    return found


def invoke(place: Place, *words: str) -> str:
    return invoked_well(*words, env=SAME_COMMIT, root=place.root)


def results(place: Place) -> dict[str, object]:
    """The results that users get: IDs of images, and the digest of the RPM."""
    return {**ids(place), "rpm.build": content(place.build / "rpm/facts.json")["facts.json"]}


@pytest.mark.slow
def test_a_change_of_each_file_in_content_mode_or_kind_is_in_the_plan(place: Place, base: str, tmp_path: Path) -> None:
    to = tmp_path / "planned.json"
    command = [sys.executable, "-m", "tests.testbed.cluster.planned", str(to), base]
    subprocess.run(command, cwd=place.root, check=True, timeout=1200)
    targets = of_base(catalogue.get(base))
    for path, changes in json.loads(to.read_text()).items():
        as_file = {name for name, target in targets.items() if f"file {path}" in target.inputs}
        as_code = {name for name, target in targets.items() if f"code {path}" in target.inputs}
        assert set(changes["content"]) == as_file | as_code, path
        # For files that Python imports, neither mode nor kind matters.
        assert set(changes["mode"]) == set(changes["link"]) == as_file, path


@pytest.mark.slow
def test_changed_files_that_are_no_inputs_change_no_result(place: Place, base: str) -> None:
    try:
        invoke(place, "build-all", "--base", base)
        before = results(place)
        found = counted(base)
        for path in files():
            if NOT_COUNTED.fullmatch(path) and path not in found:
                append(place.root / path)
        commit(place.root, "what changes nothing", Path())
        assert "nothing to do" in invoke(place, "build-all", "--base", base)
        # Everything except what was fetched is built again.
        for stamp in [*(place.build / "stamps").iterdir(), *(place.build / "cache/stamps").glob("*repository*")]:
            stamp.unlink()
        invoke(place, "build-all", "--base", base)
        assert results(place) == before
    finally:
        docker_images.forget(place.owner)


# A change of each kind, and which results the plan builds again.
CHANGES: Mapping[str, tuple[str, Callable[[Path], None], set[str]]] = {
    "content of a file of an image": ("images/etcd/files/usr/bin/etcd-health", append, {"overlayd/etcd"}),
    "mode of a file of an image": (
        "images/docker/files/usr/libexec/system-container/stop-docker",
        flip_mode,
        {"overlayd/docker", "overlayd/host"},
    ),
    "link in place of a file": (
        "images/host/files/usr/libexec/overlayd-environment",
        make_link,
        {"overlayd/host"},
    ),
    "content of a unit": ("rpm/units/overlayd.sysconfig", append, {"rpm.build", "overlayd/host"}),
}


@pytest.mark.slow
def test_the_targets_that_the_plan_names_are_those_that_differ_after_a_build(place: Place, base: str) -> None:
    try:
        invoke(place, "build-all", "--base", base)
        targets = of_base(catalogue.get(base))
        for what, (path, change, expected) in CHANGES.items():
            before = results(place)
            change(place.root / path)
            commit(place.root, what, Path())
            said = [line.partition(":")[0] for line in invoke(place, "build-all", "--dry-run").splitlines()]
            planned = [name for name in said if name in targets]
            invoke(place, "build-all", "--base", base)
            now = results(place)
            differs = {name.partition(":")[0] for name in now if now[name] != before[name]}
            assert differs == expected, what
            assert {
                name if name.startswith("rpm") else f"overlayd/{name.split('.')[1]}" for name in planned
            } >= expected
    finally:
        docker_images.forget(place.owner)
