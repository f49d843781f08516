"""The catalogue, and the graph that each base gives."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images import recipes
from images.bases import catalogue
from images.bases.base import ROLES, Base
from images.engine.errors import BuildError
from images.engine.graph import ordered
from images.engine.place import ROOT
from pipeline import targets

CONTAINERS = tuple(name for name in recipes.NAMES if recipes.get(name).container)


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_every_entry_is_well_formed(name: str) -> None:
    base = catalogue.get(name)
    assert base.name == name
    assert {*base.packages, *base.lacks} == set(ROLES)
    assert base.signed == name.startswith("centos")
    assert all(len(set(names)) == len(names) for names in base.packages.values())
    assert all(repository.question.endswith("/repodata/repomd.xml") for repository in base.repositories)


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_every_base_gives_a_whole_graph(name: str) -> None:
    base = catalogue.get(name)
    found = targets.of_base(base)
    order = [target.name for target in ordered(found, targets.whole(base))]
    assert order.index("images.base") < order.index("images.docker")
    # Only a release asks what the program is made of, and only who wants machines for their disk and its kernels.
    others = {name for name in set(found) - set(order) if not name.startswith("images.machine")}
    assert others <= {"rpm.inventory"}
    assert ("images.machine" in found) == bool(base.kernel)
    assert ("images.host" in order) == ("rpm.build" in order) == (not base.lacks)
    assert ("images.etcd.release" in order) == name.startswith("centos-stream")


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_build_all_asks_for_every_image_of_docker_by_itself(name: str) -> None:
    # An image that Docker has lost would else be missed where all that is made of it is there.
    base = catalogue.get(name)
    images = {one.name for one in recipes.products() if one.container and one.lacked(base) is None}
    assert images <= set(targets.whole(base))


def test_what_a_base_lacks_is_said_with_its_reason() -> None:
    base = catalogue.get("centos-7")
    said = targets.left_out(base, ["images.docker", "images.host", "rpm.build"])
    assert said == (
        "images.host, rpm.build cannot be made on centos-7: its newest Python is 3.6, and the program needs 3.11"
    )
    assert "images.etcd cannot be made on centos-7: its newest Python is 3.6" in str(
        targets.left_out(base, ["images.etcd", "rpm.build"])
    )
    assert set(targets.whole(base)) == {"images.base", "images.docker", "images.probe", "images.probe.tar"}
    assert targets.left_out(base, targets.whole(base)) is None
    assert targets.left_out(catalogue.get("debian12-rpm"), targets.everything()) is None


def test_a_disk_that_a_base_cannot_have_is_refused_with_the_reason() -> None:
    [stream] = [base for base in catalogue.bases() if base.name == "centos-stream9"]
    assert "images.machine cannot be made on centos-stream9: a disk with EL's own kernel" in str(
        targets.left_out(stream, ["images.machine", "images.host"])
    )
    # It is no part of build-all: the base can be chosen as before.
    assert targets.left_out(stream, targets.everything()) is None


def test_a_mirror_makes_no_difference_to_what_is_built() -> None:
    [here] = [base for base in catalogue.bases(["centos=file:///srv"]) if base.name == "centos-stream9"]
    there = catalogue.get("centos-stream9")
    assert here.repositories != there.repositories
    inputs = [{name: target.inputs for name, target in targets.of_base(base).items()} for base in (here, there)]
    assert inputs[0] == inputs[1]


def test_tags_name_the_base() -> None:
    found = targets.of_base(catalogue.get("debian12-rpm")).values()
    assert {target.image for target in found if target.image} == {
        f"overlayd/{name}:debian12-rpm" for name in (*CONTAINERS, "freezer")
    }


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(BuildError, match="no base 'centos-8'"):
        catalogue.get("centos-8")


def test_every_base_and_every_image_has_a_row_in_its_readme() -> None:
    for page, names, row in (
        ("images/bases/README.md", catalogue.NAMES, r"^\| `([a-z0-9-]+)` \| [^|]*\| v"),
        ("images/README.md", recipes.NAMES, r"^\| \[`(?:overlayd/)?([a-z0-9-]+)`\]"),
    ):
        assert sorted(re.findall(row, (ROOT / page).read_text(), re.MULTILINE)) == list(names)


_NEW_BASE = """
from pathlib import Path
from images.bases import catalogue, choose
from pipeline import targets
new = catalogue.get("centos-stream11")
answers = {name: choose.Answer(base=name, ok=True, why="") for name in catalogue.NAMES}
print(choose.by_default(catalogue.bases(), Path("nowhere"), fetched=(), answers=answers).base.name)
print(new.tag("host"), sorted(name for name, target in targets.of_base(new).items() if target.network))
"""


def test_one_module_is_enough_to_add_a_base(tmp_path: Path) -> None:
    for name in ("rpm", "pipeline", "daemon", "requirements", "LICENSE", ".git"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "images", tmp_path / "images", symlinks=True)
    place = tmp_path / "images/bases/catalogue"
    text = (place / "centos_stream9.py").read_text()
    (place / "centos_stream11.py").write_text(
        text.replace("    9,\n", "    11,\n").replace("preference=1", "preference=0")
    )
    done = subprocess.run(
        [sys.executable, "-c", _NEW_BASE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{tmp_path / 'daemon'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "centos-stream11",
        "overlayd/host:centos-stream11 ['bases.centos-stream11.repository', 'images.etcd.release', 'rpm.wheelhouse']",
    ], done.stderr


def test_an_entry_that_leaves_something_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def incomplete(name: str) -> object:
        return Base(name=name)  # type: ignore[call-arg]

    monkeypatch.setattr(catalogue, "import_module", incomplete)
    with pytest.raises(BuildError, match=r"entry centos-7: .*missing .* required keyword-only arguments: 'title'"):
        catalogue.get("centos-7")


def test_an_entry_that_is_no_base() -> None:
    with pytest.raises(BuildError, match="entry x: BASE is dict"):
        catalogue.check({}, "x")


def test_everything_that_is_wrong_with_an_entry_is_named() -> None:
    base = catalogue.get("centos-stream9")
    [first, *_] = base.repositories
    bad = dataclasses.replace(
        base,
        packages={"base": (), "bses": ()},
        rpm_dbpath="var/lib/rpm",
        repositories=(dataclasses.replace(first, url="mirror/x", key_fingerprint="99DB"),),
    )
    with pytest.raises(BuildError) as caught:
        catalogue.check(bad, "x")
    for words in ("its name is 'centos-stream9'", "role 'docker'", "'bses'", "'mirror/x'", "'99DB'", "'var/lib/rpm'"):
        assert words in caught.value.message
