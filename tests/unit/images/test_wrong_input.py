"""What a person types wrong: one message that says what, and what is allowed; nothing is begun, and no Docker asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("build-all --base centos-8", ("error: there is no base 'centos-8'", "there are: centos-stream9,")),
        ("build-all --mirror x", ("error: --mirror x: it is not said for which site", "--mirror NAME=URL")),
        (
            "rpm.build --base debian12-rpm --mirror docker=file:///srv",
            ("error: --mirror docker=file:///srv: debian12-rpm has no site", "there are: debian, security"),
        ),
        ("images.host --base centos-7", ("error: images.host cannot be made on centos-7: its newest Python is 3.6",)),
        ("build-all --mirrors x", ("No idea what '--mirrors' is!",)),
        ("images.build --base nosuch --target images.base", ("error: there is no base 'nosuch'",)),
        pytest.param(
            "release --to /proc/x --unsigned",
            ("error: in /proc no folder can be made", "name another: --to"),
            marks=pytest.mark.needs("root"),
        ),
        pytest.param(
            "release --unsigned --number 0.5",
            ("error: OVERLAYD_RELEASE is '0.5'", "allowed: a number from 1"),
            marks=pytest.mark.needs("root"),
        ),
        ("cluster.shell", ("did not receive required positional arguments: 'host'",)),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(words: str, expected: tuple[str, ...]) -> None:
    said = refused(words, status=1)
    for text in expected:
        assert text in said


@pytest.mark.parametrize(
    ("words", "wrong", "allowed"),
    [
        ("cluster.up --hosts 0", "hosts is '0'", "a whole number of at least 1"),
        ("cluster.up --hosts x", "hosts is 'x'", "a whole number of at least 1"),
        ("cluster.up --hosts 300", "hosts is 300", "1 to 244 on the underlay 198.18.0.0/24"),
        ("cluster.up --backend {", "backend is '{', which is not JSON", 'an object, as {"Type":"vxlan","VNI":7}'),
        ("cluster.up --backend nosuch", "Backend Type is 'nosuch'", ""),
        ("cluster.up --underlay 198.18.7.1/24", "underlay is '198.18.7.1/24'", "an IPv4 subnet with its length"),
        ("cluster.down --name a/b", "name is 'a/b'", "up to 40 letters, digits"),
        ("cluster.show --seconds x", "seconds is 'x'", "a whole number of at least 1"),
        ("up --underlay 198.18.7.0/30", "underlay is 198.18.7.0/30, which is too small", "length 28 or shorter"),
        ("bench --repeat 0", "repeat is '0'", "a whole number of at least 1"),
        ("bench --backends vxlan,nothing", "Backend Type is 'nothing'", ""),
        ("bench --only cluster,nothing", "only is 'cluster,nothing'", "cluster, namespaces, peers, daemon, many"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_allowed(words: str, wrong: str, allowed: str) -> None:
    said = refused(words, status=2)
    assert said.startswith(f"error: {wrong}")
    assert allowed in said


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("up", marks=pytest.mark.needs("root")),
        "cluster.up",
        "cluster.status",
        "cluster.show",
        "cluster.shell host1",
    ],
)
def test_a_docker_that_is_not_there_is_said_so(task: str) -> None:
    assert refused(task, status=1).startswith(
        "error: no dockerd answers at DOCKER_HOST=unix:///nowhere: No such file or directory\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("task", ["down", "cluster.up", "cluster.status"])
def test_a_user_who_may_not_talk_to_docker_is_told_at_once(task: str, tmp_path: Path) -> None:
    nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    if subprocess.run([*nobody, sys.executable, "-c", f"open('{ROOT}/tasks.py')"], check=False).returncode != 0:
        pytest.skip("the checkout is not another user's to read")
    # Others cannot get into a folder of pytest's.
    said = refused(task, *nobody, status=1, docker=f"unix://{tmp_path}/docker.sock")
    assert said == "error: this user may not talk to dockerd\n  run as root, or as a user of the group docker\n"


def refused(words: str, *prefix: str, status: int, docker: str = "unix:///nowhere") -> str:
    """What a task says on standard error; it ends with that exit status, and begins nothing."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "invoke", *words.split()],
        cwd=ROOT,
        # No Docker is asked for what can be told without.
        env={"PATH": "/usr/bin:/bin", "DOCKER_HOST": docker, "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
    return done.stderr
