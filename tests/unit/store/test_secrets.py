"""Passwords and tokens are shown to nobody, whatever goes wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from overlayd.errors import StoreError
from overlayd.store.follow import Follower
from tests.testbed.polling import eventually
from tests.unit.store.conftest import PASSWORD, Etcd, logins

WRONG = "battery staple"
SOURCES = Path(__file__).parents[3] / "daemon"


def check_for_secrets(etcd: Etcd, said: list[str]) -> None:
    tokens = logins(etcd)
    for secret in (PASSWORD, WRONG, *tokens):
        assert not [one for one in said if secret in one]


def overlayd(*words: str, password: str | None) -> str:
    """All that a command writes."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    if password is not None:
        environment["FLANNELD_ETCD_PASSWORD"] = password
    argv = [sys.executable, "-m", "overlayd", *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, timeout=60)
    return done.stdout + done.stderr


def answered(follower: Follower) -> bool:
    return follower.view.connected or follower.view.problem is not None


def away(follower: Follower) -> bool:
    return "UNAVAILABLE" in str(follower.view.problem)


def test_no_message_holds_a_password_or_a_token(guarded: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    for password, key in ((PASSWORD, "/net/"), (PASSWORD, "/elsewhere/"), (WRONG, "/net/")):
        store = guarded.store(username="overlayd", password=password)
        follower = Follower(store, key, lambda: None)
        follower.start()
        try:
            eventually("an answer of any kind", partial(answered, follower))
            said.append(str(follower.view))
            guarded.stop()
            eventually("etcd is away", partial(away, follower))
            said.append(str(follower.view))
            with pytest.raises(StoreError) as caught:
                store.put(f"{key}a", b"1")
            said += [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
        finally:
            follower.stop()
            guarded.start()
    said += [str(vars(record)) for record in caplog.records]
    check_for_secrets(guarded, said)
    assert any("PERMISSION_DENIED" in one for one in said)
    assert any("INVALID_ARGUMENT" in one for one in said)
    assert len(logins(guarded)) >= 2


@pytest.mark.parametrize("password", [PASSWORD, WRONG], ids=["right", "wrong"])
def test_no_command_prints_a_password_or_a_token(guarded: Etcd, password: str) -> None:
    words = ["--verbose", "--config-file=/dev/null", "--iface=lo", f"--etcd-endpoints={guarded.endpoint}"]
    words += ["--etcd-prefix=/net", "--etcd-username=overlayd"]
    said = [
        overlayd(*command, *words, password=password)
        for command in (["config", "set", '{"Network": "10.42.0.0/16"}'], ["config", "get"], ["check"])
    ]
    assert "etcd-password (not shown)" in said[-1]
    assert ("10.42.0.0/16" if password == PASSWORD else "authentication failed") in said[-1]
    check_for_secrets(guarded, said)


def test_a_password_as_a_flag_or_in_an_endpoint_is_refused_and_not_repeated(guarded: Etcd) -> None:
    said = overlayd("check", f"--etcd-password={PASSWORD}", "--config-file=/dev/null", password=None)
    assert "/proc/PID/cmdline" in said
    assert "etcd-password-file" in said
    url = f"http://root:{WRONG.replace(' ', '')}@127.0.0.1"
    other = overlayd("check", f"--etcd-endpoints={url}", "--config-file=/dev/null", password=None)
    assert "set etcd-username and etcd-password-file" in other
    assert WRONG.replace(" ", "") not in other
    check_for_secrets(guarded, [said])
