"""Child processes: what comes back, and how a failure reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlayd.errors import CommandFailed
from overlayd.lib import process
from tests.testbed.polling import eventually
from tests.testbed.processes import command_line


def test_output_comes_back() -> None:
    assert process.run(["cat"], input="a line\n") == "a line\n"


def test_a_failure_is_a_command_to_paste() -> None:
    with pytest.raises(CommandFailed) as caught:
        process.run(["sh", "-c", "echo no such thing >&2; exit 3"], input="one\ntwo\n")
    text = str(caught.value)
    assert text.startswith("sh -c 'echo no such thing >&2; exit 3' <<'END'\none\ntwo\nEND")
    assert "status 3: no such thing" in text


@pytest.mark.parametrize("word", ["a\0b", "a\ud800b"])
def test_what_no_program_can_be_given_is_a_failure_like_others(word: str) -> None:
    with pytest.raises(CommandFailed, match="could not be started"):
        process.run(["true", word])


def test_a_command_that_is_not_there_and_one_that_does_not_end() -> None:
    with pytest.raises(CommandFailed, match="command not found"):
        process.run(["overlayd-no-such-command"])
    with pytest.raises(CommandFailed, match=r"no end after 0\.1 s"):
        process.run(["tail", "-f", "/dev/null"], timeout_s=0.1)


def test_children_get_the_users_libraries_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/frozen/_internal")
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/users/own")
    assert process.child_environment()["LD_LIBRARY_PATH"] == "/users/own"
    monkeypatch.delenv("LD_LIBRARY_PATH_ORIG")
    monkeypatch.setattr("sys.frozen", True, raising=False)
    assert "LD_LIBRARY_PATH" not in process.child_environment()


def test_children_get_no_secret_and_nothing_else_that_they_do_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    unwanted = {
        *("OVERLAYD_ETCD_PASSWORD", "FLANNELD_ETCD_PASSWORD", "OVERLAYD_OPTIONS", "LD_PRELOAD", "NOTIFY_SOCKET"),
        *("PYTHONPATH", "_PYI_ARCHIVE_FILE", "CREDENTIALS_DIRECTORY", "ANYTHING", "WG_TUN_FD", "BASH_ENV"),
    }
    wanted = {"PATH": os.environ["PATH"], "DOCKER_HOST": "unix:///x", "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/y"}
    for name in unwanted:
        monkeypatch.setenv(name, "secret")
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    told = dict(line.partition("=")[::2] for line in process.run(["env"]).splitlines())
    assert not unwanted & set(told)
    assert "secret" not in told.values()
    assert told.items() >= {**wanted, "LC_ALL": "C"}.items()


def test_variables_are_added_to_the_environment() -> None:
    assert process.run(["sh", "-c", "echo $SUBNET $LC_ALL"], env={"SUBNET": "10.5.2.0/24"}) == "10.5.2.0/24 C\n"


def test_what_a_command_that_hangs_had_started_ends_with_it(tmp_path: Path) -> None:
    script = f"tail -f /dev/null & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(CommandFailed, match="was killed"):
        process.run(["sh", "-c", script], timeout_s=0.5)
    pid = (tmp_path / "pid").read_text().strip()
    eventually("its child is gone", lambda: not command_line(pid))
