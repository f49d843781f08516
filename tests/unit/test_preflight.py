"""make, and tasks called without it, report in the first second what would make a set-up or a build fail later."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.engine import preflight
from tests.testbed.needs import needs

ROOT = Path(__file__).resolve().parents[2]
LOWEST = dict(line.split()[:2] for line in (ROOT / "requirements/lowest").read_text().splitlines() if line[:1] != "#")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
TARGETS = ("up", "build-all", "test", "test-all", "bench", "nightly")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, and mount")


@pytest.fixture
def place() -> Iterator[Path]:
    """A checkout with only the files that make needs to start, which everybody can read."""
    with tempfile.TemporaryDirectory(prefix="overlayd-preflight-") as folder:
        Path(folder).chmod(0o755)
        found = Path(folder) / "checkout"
        shutil.copytree(ROOT / "requirements", found / "requirements")
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, found)
        (found / "build").mkdir()
        git = ["git", "-C", str(found), "-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run([*git, "init", "--quiet"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=all"], check=True)
        yield found


def told(place: Path, *before: str, target: str = "build-all", **variables: str) -> str:
    """The first line of `make`; asserts that it fails within a second, sets up nothing, and shows no traceback."""
    took: list[float] = []
    # Other work on a machine with two processors may delay a command as long; one quick run is enough.
    while not took or (min(took) >= 1.0 and len(took) < 5):
        begin = time.monotonic()
        done = subprocess.run(
            [*before, "make", "build-all", target] if "=" in target else [*before, "make", target],
            cwd=place,
            env=ENVIRONMENT | variables,
            capture_output=True,
            check=False,
            timeout=60,
        )
        took.append(time.monotonic() - begin)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert min(took) < 1.0
    assert not (place / ".venv").exists()
    # The error, and what to do.
    assert re.match(r"error: .+\n  \S", said, re.DOTALL), said
    return said.splitlines()[0]


def fakes(place: Path, script: str, *names: str) -> str:
    """A PATH that begins with stand-ins for programs."""
    folder = place.parent / "fakes"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{ENVIRONMENT['PATH']}"


@root_only
@pytest.mark.parametrize("target", TARGETS)
def test_whoever_is_not_root_is_told_so_before_anything_is_set_up(place: Path, target: str) -> None:
    said = told(place, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", target=target)
    assert said.startswith("error: only root can make root filesystems")
    assert said.endswith("this is nobody")


@root_only
def test_tests_that_need_no_root_are_not_refused_to_anybody_where_the_environment_is_another_users(place: Path) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "requirements/check", "tests"]
    done = subprocess.run(nobody, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(f"error: nothing can be written into {place}")
    (place / ".venv/bin").mkdir(parents=True)
    for name in ("python", "invoke"):
        (place / ".venv/bin" / name).symlink_to("/bin/true")
    (place / ".venv/.complete").write_text(f"{place}\n")
    done = subprocess.run(nobody, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@root_only
def test_whoever_may_not_talk_to_docker_is_told_that_nothing_is_removed(place: Path) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "requirements/check", "down"]
    for variables, status in (({}, 1), ({"DOCKER_HOST": "unix:///nowhere"}, 0)):
        done = subprocess.run(
            nobody, cwd=place, env=ENVIRONMENT | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert done.stderr.startswith("error: a cluster is removed by root, or by a user of docker's group") == status


@root_only
def test_a_checkout_that_cannot_be_written_to_is_refused(place: Path) -> None:
    mounted = f'mount --bind {place} {place}; mount -o remount,bind,ro {place}; cd {place}; exec "$@"'
    said = told(place, "unshare", "--mount", "sh", "-euc", mounted, "sh")
    assert said == f"error: nothing can be written into {place}: Read-only file system"


@root_only
@pytest.mark.parametrize("character", list(" :%#'ü,$\"\\*?[]{}()<>|&;!^`\t\n"))
def test_a_path_that_a_tool_would_read_otherwise_is_refused(place: Path, character: str) -> None:
    moved = place.rename(place.parent / f"a{character}b")
    said = told(moved, LC_ALL="C.UTF-8")
    assert said.startswith(f"error: the path of this checkout is {place.parent}/a")
    assert told(moved, LC_ALL="C") == said
    # A task reports the same, in ASCII only.
    with pytest.raises(preflight.Unfit, match="the path of this checkout is") as caught:
        preflight.check(moved)
    assert str(caught.value).isascii()


@root_only
def test_a_path_of_other_characters_will_do(place: Path) -> None:
    moved = place.rename(place.parent / "o+v@e=r~l_a-y.1")
    assert subprocess.run(["sh", moved / preflight.SCRIPT, "run"], capture_output=True, check=True).stderr == b""


@root_only
@needs("faketime")
def test_a_clock_that_is_behind_is_told_before_signatures_are_bad(place: Path) -> None:
    said = told(place, "faketime", "2020-01-02 00:00:00")
    assert said.startswith("error: this machine's clock is behind: it is 2020-01-0"), said


@root_only
def test_a_copy_that_does_not_tell_its_commit_is_refused_and_a_tarball_is_not(place: Path) -> None:
    shutil.rmtree(place / ".git")
    shutil.copy(ROOT / ".git_archival.txt", place)
    said = told(place)
    assert said == f"error: nothing tells which commit {place} is: there is no .git"
    (place / ".git_archival.txt").write_text(f"node: {'0a' * 20}\ntime: 1790000000\n")
    preflight.check(place)
    (place / ".git_archival.txt").write_text(f"node: {'0a' * 20}\ntime: 4000000000\n")
    assert told(place).startswith("error: this machine's clock is behind")
    subprocess.run(["git", "init", "--quiet"], cwd=place, check=True)
    assert told(place).startswith(f"error: nothing tells which commit {place} is: git says: fatal: ")


@root_only
@needs("dpkg-query")
def test_a_tool_that_is_too_old_is_named_with_the_lowest_version(place: Path) -> None:
    old = fakes(place, "echo git 1:2.30.2-1+deb11u2 installed; echo make 4.3-4.1 installed", "dpkg-query")
    assert told(place, PATH=old) == f"error: too old: git 1:2.30.2-1+deb11u2 (lowest: {LOWEST['git']})"


@root_only
@pytest.mark.parametrize(
    ("version", "refused"),
    [
        ("5:20.10.23~3-0", True),
        ("20.10.24+dfsg1-1+deb12u1", False),
        ("5:28.5.2-1", False),
        ("20.9.99", True),
        ("19", True),
        ("21", False),
    ],
)
@needs("dpkg-query")
def test_versions_are_compared_as_numbers(place: Path, version: str, refused: bool) -> None:
    path = fakes(place, f"echo docker-ce {version} installed", "dpkg-query")
    done = subprocess.run(["sh", "requirements/check", "run"], cwd=place, env={"PATH": path}, check=False)
    assert (done.returncode != 0) == refused


@root_only
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="elsewhere install-system brings a newer one beside it")
def test_a_python_that_is_too_old_is_named_with_all_that_were_looked_at(place: Path) -> None:
    names = ("python3.13", "python3.12", "python3.11", "python3")
    looked = ", ".join(f"{name} (3.9.2)" for name in names)
    said = told(place, PATH=fakes(place, "echo 3.9.2; exit 3", *names))
    assert said == f"error: no Python is {LOWEST['python']} or newer; looked at: {looked}"


@root_only
@pytest.mark.parametrize(
    ("script", "why"), [("echo 3.11.1; exit 3", "3.11.1"), ("echo 3.12.0; exit 1", "3.12.0 without venv")]
)
def test_a_python_that_was_named_is_the_only_one_looked_at(place: Path, script: str, why: str) -> None:
    fakes(place, script, "mine")
    mine = place.parent / "fakes/mine"
    assert told(place, PYTHON=str(mine)).endswith(f"looked at: {mine} ({why})")
    assert told(place, target="PYTHON=/nowhere/python3").endswith("looked at: /nowhere/python3 (not there)")


@root_only
@needs("faketime")
def test_all_that_is_wrong_is_told_at_once(place: Path) -> None:
    moved = place.rename(place.parent / "a b")
    with pytest.raises(preflight.Unfit, match=r"(?s)^the path .*\n  move it.*\nerror: .*clock.*\n  set the clock"):
        _with_variables(moved, LD_PRELOAD=_libfaketime(), FAKETIME="@2020-01-02 00:00:00")


def _with_variables(place: Path, **variables: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        preflight.check(place)


def _libfaketime() -> str:
    shown = subprocess.run(["faketime", "now", "env"], capture_output=True, text=True, check=True).stdout
    return next(line.partition("=")[2] for line in shown.splitlines() if line.startswith("LD_PRELOAD="))


def planned(place: Path, *words: str) -> str:
    """What make would run (`make --dry-run`). Checks inside $(shell …) run in any case."""
    done = subprocess.run(
        ["make", "--dry-run", *words], cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout


def with_environment(place: Path) -> None:
    """Make a .venv that looks complete."""
    (place / ".venv/bin").mkdir(parents=True)
    (place / ".venv/bin/python").symlink_to(sys.executable)
    (place / ".venv/bin/invoke").write_text("#!/bin/sh\n")
    (place / ".venv/bin/invoke").chmod(0o755)
    (place / ".venv/.complete").write_text(f"{place}\n")


@pytest.mark.parametrize("target", ["setup", "down"])
def test_a_moved_checkout_gets_its_environment_anew(place: Path, target: str) -> None:
    with_environment(place)
    assert "-m venv" not in planned(place, target)
    moved = place.rename(place.parent / "elsewhere")
    assert "-m venv --clear" in planned(moved, target)


def test_a_python_that_is_gone_has_the_environment_made_anew(place: Path) -> None:
    with_environment(place)
    (place / ".venv/bin/python").unlink()
    (place / ".venv/bin/python").symlink_to("/usr/bin/python3.gone")
    assert "-m venv --clear" in planned(place, "setup")


@pytest.mark.parametrize("words", [["help"], ["down"], ["clean"]])
def test_help_and_down_ask_for_nothing_to_be_set_up(place: Path, words: list[str]) -> None:
    assert "requirements" not in planned(place, *words)


def test_options_of_up_are_those_given_to_make(place: Path) -> None:
    assert shlex.split(planned(place, "up").splitlines()[-1]) == [".venv/bin/invoke", "up"]
    given = shlex.split(planned(place, "up", 'BACKEND={"Type": "udp"}', "UNDERLAY=198.18.9.0/24").splitlines()[-1])
    assert given == [".venv/bin/invoke", "up", "--backend", '{"Type": "udp"}', "--underlay", "198.18.9.0/24"]


def test_the_lowest_python_is_stated_once_and_all_agree_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lowest = LOWEST["python"]
    minor = lowest.rpartition(".")[0]
    assert project["project"]["requires-python"] == f">={lowest}"
    assert project["tool"]["mypy"]["python_version"] == minor
    assert project["tool"]["ruff"]["target-version"] == f"py{minor.replace('.', '')}"
    assert f"Python {lowest}" in (ROOT / "README.md").read_text()
    for name in ("Makefile", "requirements/install-system"):
        assert minor not in (ROOT / name).read_text(), name


def test_what_was_there_before_and_will_do_is_not_replaced(place: Path) -> None:
    """A machine with docker-ce needs no other docker."""
    listed = (ROOT / "requirements/system-debian.txt").read_text()
    names = re.sub(r"#.*", "", listed).replace("docker.io/docker-ce", "docker-ce").replace("/", " ").split()
    shown = "; ".join(f"echo '|{name}:installed|'" for name in names)
    path = fakes(place, shown, "dpkg-query")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "--regid=65534", "sh", "requirements/install-system"]
        if os.geteuid() == 0
        else ["sh", "requirements/install-system"],
        cwd=place,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
