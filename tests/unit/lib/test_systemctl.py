"""What `systemctl show` prints, as a value."""

from __future__ import annotations

import pytest

from overlayd.errors import CommandFailed
from overlayd.lib import process, systemctl


def test_each_property_that_was_asked_for_has_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], **_options: object) -> str:
        asked.append(argv)
        return "LoadState=loaded\nDropInPaths=/a.conf /b=c.conf\n"

    monkeypatch.setattr(process, "run", run)
    found = systemctl.show("docker.service", ["LoadState", "DropInPaths", "InvocationID"])
    assert asked == [["systemctl", "show", "docker.service", "--property=LoadState,DropInPaths,InvocationID"]]
    assert found == {"LoadState": "loaded", "DropInPaths": "/a.conf /b=c.conf", "InvocationID": ""}


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_argv: list[str], **_options: object) -> str:
        raise CommandFailed("systemctl: command not found")

    monkeypatch.setattr(process, "run", run)
    assert systemctl.show("docker.service", ["LoadState"]) is None
