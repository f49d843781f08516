"""A disk without room: a file keeps its old content, and the message names it. The kernel's limit of a file's size."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlayd.lib.files import write_atomically
from overlayd.monitoring.status_file import Status, StatusFile


@contextmanager
def no_room() -> Iterator[None]:
    """Let this process write no byte more to any file (setrlimit(2), RLIMIT_FSIZE)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written_keeps_its_content_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    write_atomically(path, "old\n")
    with no_room(), pytest.raises(OSError, match=r"subnet\.env"):
        write_atomically(path, "new\n")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old\n", [path])


def test_a_status_that_cannot_be_written_is_logged_once_and_written_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = StatusFile(tmp_path, Status(state="starting", pid=1, version="1", started_at_s=0.0))
    file.update()
    with no_room():
        for state in ("waiting", "ready"):
            file.update(state=state)
    assert '"starting"' in (tmp_path / "status.json").read_text()
    file.update()
    assert '"ready"' in (tmp_path / "status.json").read_text()
    said = [(record.getMessage(), vars(record)["fields"]) for record in caplog.records]
    (failed, fields), (written, _fields) = said
    assert "the status cannot be written" in failed
    assert str(tmp_path / "status.json") in fields["problem"]
    assert "can be written again" in written
