"""Child processes: what comes back, and how a failure reads."""

from __future__ import annotations

import pytest

from overlayd import process
from overlayd.errors import CommandFailed


def test_output_comes_back() -> None:
    assert process.run(["cat"], input="a line\n") == "a line\n"


def test_a_failure_is_a_command_to_paste() -> None:
    with pytest.raises(CommandFailed) as caught:
        process.run(["sh", "-c", "echo no such thing >&2; exit 3"], input="one\ntwo\n")
    text = str(caught.value)
    assert text.startswith("sh -c 'echo no such thing >&2; exit 3' <<'END'\none\ntwo\nEND")
    assert "status 3: no such thing" in text


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
