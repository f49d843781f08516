"""What a person types wrong: one message that says what, and what there is; exit status 1, and nothing is begun."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("build-all --base centos-8", ("error: there is no base 'centos-8'", "there are: centos-stream9,")),
        ("build-all --mirror x", ("error: --mirror x: whose mirror is it?", "--mirror NAME=URL")),
        (
            "rpm.build --base debian12-rpm --mirror docker=file:///srv",
            ("error: --mirror docker=file:///srv: debian12-rpm has no site", "there are: debian, security"),
        ),
        ("images.host --base centos-7", ("error: images.host cannot be made on centos-7: its newest Python is 3.6",)),
        ("build-all --mirrors x", ("No idea what '--mirrors' is!",)),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(words: str, expected: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *words.split()],
        cwd=ROOT,
        # No Docker is asked for what can be told without.
        env={"PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///nowhere", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
