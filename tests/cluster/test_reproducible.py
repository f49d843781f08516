"""A build depends on the commit only: built in different environments, one commit gives the same bytes.

Each row of VARIATIONS is a build of everything except what is fetched, in its own checkout, without a network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from images.bases import catalogue
from images.engine import docker_images
from images.engine.place import PLACE, Place
from pipeline.targets import of_base
from tests.testbed.cluster.checkout import checkout, is_dirty, tarball

pytestmark = pytest.mark.lane("builds")

NOBODY = 65534
# User settings that rpm, tar, gzip, xz, git and Python read.
HOSTILE: dict[str, str] = {
    **{"TAR_OPTIONS": "--owner=nobody --mtime=@1", "GZIP": "-1", "XZ_DEFAULTS": "-0", "GIT_DIR": "/nonexistent"},
    **{"PYTHONHASHSEED": "5", "PYTHONDONTWRITEBYTECODE": "1", "CDPATH": "/tmp", "RPM_CONFIGDIR": "/nonexistent"},
}
RPMMACROS = "%_binary_payload w0.gzdio\n%_dbpath /elsewhere\n%_buildhost somewhere\n%packager somebody\n"
LOCALE = {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "LANGUAGE": "tr", "TZ": "Pacific/Kiritimati"}
# The engine's clock. Tools and containers have the machine's clock, which differs between builds as well.
A_YEAR_AHEAD = ("env", "NO_FAKE_STAT=1", "faketime", "-f", "+400d")


def clone(to: Path) -> None:
    checkout(to)


def shallow(to: Path) -> None:
    checkout(to, "--depth=1")


def of_another_user(to: Path, *options: str) -> None:
    checkout(to, *options)
    for folder, _, files in os.walk(to):
        for name in ("", *files):
            os.lchown(Path(folder, name), NOBODY, NOBODY)


def shallow_and_of_another_user(to: Path) -> None:
    of_another_user(to, "--depth=1")


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How this build differs from that of the images under test."""

    get: Callable[[Path], None] = clone
    folder: str = "elsewhere"
    umask: str = "022"
    environment: Mapping[str, str] = field(default_factory=dict)
    macros: str = ""
    clock: tuple[str, ...] = ()


VARIATIONS = {
    "umask": Variation(umask="077"),
    "locale and time zone": Variation(environment=LOCALE),
    "settings of the user": Variation(environment=HOSTILE, macros=RPMMACROS),
    "checkout of another user": Variation(get=of_another_user),
    "path": Variation(folder="a+b_c=d@e~f/a.checkout-in-a-folder-with-quite-a-long-name"),
    "depth of the clone": Variation(get=shallow),
    "tarball": Variation(get=tarball),
    "clock": Variation(clock=A_YEAR_AHEAD),
}
ALL_AT_ONCE = Variation(
    get=shallow_and_of_another_user,
    folder="a+b_c=d@e~f/elsewhere",
    umask="077",
    environment=LOCALE | HOSTILE,
    macros=RPMMACROS,
    clock=A_YEAR_AHEAD,
)


def built(variation: Variation, folder: Path, base: str) -> tuple[Place, subprocess.CompletedProcess[str]]:
    """A checkout after `invoke build-all` in an empty network namespace; Docker is reached by its socket."""
    place = Place(root=folder / variation.folder)
    before = os.umask(int(variation.umask, 8))
    try:
        variation.get(place.root)
        give_what_was_fetched(place, base)
        home = folder / "home"
        home.mkdir()
        (home / ".rpmmacros").write_text(variation.macros)
    finally:
        os.umask(before)
    if variation.clock:
        # To the tools, a key of this folder that was made with another clock may be from the future.
        subprocess.run(["cp", "--archive", PLACE.build / "keys", place.build], check=True)
    done = subprocess.run(
        [
            *(*variation.clock, "sh", "-euc", f'umask {variation.umask}; exec "$@"', "sh"),
            *("unshare", "--net", sys.executable, "-m", "tests.testbed.cluster.traced", folder / "used.json"),
            *("build-all", "--base", base),
        ],
        cwd=place.root,
        # The daemon's modules come from this checkout, as tests import them; the rest from the other checkout.
        env={**os.environ, "HOME": str(home), **variation.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    return place, done


def give_what_was_fetched(place: Place, base: str) -> None:
    """Only what was fetched: packages become RPMs again, and their metadata is signed again."""
    cached = place.build / "cache"
    cached.mkdir(parents=True)
    # cp, since a root filesystem has device nodes, which must not be read.
    for path in (PLACE.build / "cache").iterdir():
        if path.name in ("stamps", "bases") or path.name.startswith("wheelhouse-"):
            subprocess.run(["cp", "--archive", path, cached / path.name], check=True)
    (cached / f"stamps/{catalogue.get(base).repository_target}.json").unlink()


def ids(place: Place) -> dict[str, str]:
    found = {name: place.layout.image(name) for name in place.layout.names() if "test" not in name}
    return {name: image.id for name, image in found.items() if image is not None}


def content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {path.name: path.read_bytes() for path in files}


def check_the_same(other: Place, said: subprocess.CompletedProcess[str], base: str) -> None:
    try:
        assert said.returncode == 0, said.stdout + said.stderr
        assert f"{catalogue.get(base).repository_target}: built" in said.stdout
        assert ids(other) == ids(PLACE)
        for name in ("rpm/repo/repodata/repomd.xml", "rpm/facts.json", "images/probe.tar"):
            assert content(other.build / name) == content(PLACE.build / name)
        assert content(other.build / "rpm/repo").keys() == content(PLACE.build / "rpm/repo").keys()
        assert not list(other.build.rglob("*.half"))
    finally:
        docker_images.forget(other.owner)


@pytest.mark.slow
def test_one_commit_gives_the_same_images_and_rpm_whoever_builds_it_how_and_where(tmp_path: Path, base: str) -> None:
    check_the_same(*built(ALL_AT_ONCE, tmp_path, base), base)
    check_that_what_was_used_is_counted(json.loads((tmp_path / "used.json").read_text()), base)


def check_that_what_was_used_is_counted(used: Mapping[str, list[str]], base: str) -> None:
    """Assert that each of our functions that ran and each of our files that was read for a target is its input."""
    targets = of_base(catalogue.get(base))
    made = set(used) & set(targets)
    assert {"images.base", "images.etcd", "images.host", "rpm.freeze", "rpm.build"} <= made
    for name in made:
        counted = {key.partition(" ")[2] for key in targets[name].inputs if key.startswith(("code ", "file "))}
        assert set(used[name]) <= counted, name
        assert any(file.startswith(("images/bases/", "rpm/", f"images/{name.split('.')[1]}")) for file in used[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(VARIATIONS))
def test_each_variation_alone_gives_the_same(tmp_path: Path, base: str, name: str) -> None:
    if name == "tarball" and is_dirty():
        pytest.skip("a tarball has no uncommitted changes")
    check_the_same(*built(VARIATIONS[name], tmp_path, base), base)


def test_without_a_cache_and_a_network_the_build_names_the_server_that_does_not_answer(
    tmp_path: Path, base: str
) -> None:
    checkout(tmp_path / "elsewhere")
    refused = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "invoke", "build-all", "--base", base],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert refused.returncode == 1
    assert f"base {base}: " in refused.stderr
    assert "does not answer" in refused.stderr
