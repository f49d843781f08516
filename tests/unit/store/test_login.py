"""The login on etcd: got when it is needed, and got anew when it is no longer good."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.errors import StoreDenied, StoreError
from overlayd.store.client import Store
from overlayd.store.servers import Refused
from overlayd.store.watch import EtcdWatch
from tests.testbed.polling import eventually
from tests.unit.store.conftest import PASSWORD, Etcd, following, logins


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def user(guarded: Etcd, password_file: Path) -> Store:
    """A store of that etcd's user."""
    return guarded.store(username="overlayd", password_file=str(password_file))


def let_tokens_expire(etcd: Etcd) -> None:
    """Wait for two seconds and more by etcd's clock, which is an etcd lease."""
    lease = etcd.ctl("lease", "grant", "2").split()[1]
    etcd.ctl("put", f"--lease={lease}", "/clock", "1")
    eventually("the lease ends", lambda: not etcd.ctl("get", "/clock"))


def test_calls_and_watches_outlive_their_token(guarded: Etcd, user: Store, caplog: pytest.LogCaptureFixture) -> None:
    with following(user) as seen:
        assert len(logins(guarded)) == 1
        let_tokens_expire(guarded)
        guarded.ctl("put", "/net/a", "1")
        eventually("the watch goes on", lambda: "a" in seen.view.entries)
        user.put("/net/b", b"1")
        eventually("the watch goes on", lambda: "b" in seen.view.entries)
    assert f"invalid auth token: {logins(guarded)[0]}" in guarded.members[0].log_text()
    assert len(logins(guarded)) == 2
    assert "etcd is away" not in caplog.text


def test_a_watch_with_an_expired_token_is_refused_once(guarded: Etcd, user: Store) -> None:
    _found, revision = user.list_prefix("/net/")
    let_tokens_expire(guarded)
    with pytest.raises(StoreDenied):
        next(iter(EtcdWatch(user, ["/net/"], revision=revision + 1)))
    assert next(iter(EtcdWatch(user, ["/net/"], revision=revision + 1))) == ()


def test_an_etcd_that_was_restarted_or_got_another_role_is_logged_in_to_again(guarded: Etcd, user: Store) -> None:
    with following(user) as seen:
        guarded.ctl("role", "add", "another")
        user.put("/net/a", b"1")
        eventually("the watch goes on", lambda: "a" in seen.view.entries)
        before = len(logins(guarded))
        guarded.stop()
        guarded.start()
        user.put("/net/b", b"1")
        eventually("the watch is back", lambda: "b" in seen.view.entries)
        assert len(logins(guarded)) > before


def test_a_new_password_is_read_from_the_file(guarded: Etcd, user: Store, password_file: Path) -> None:
    with following(user) as seen:
        guarded.ctl("user", "passwd", "overlayd", "--interactive=false", stdin="staple\n")
        with pytest.raises(Refused, match="check etcd-username and its password"):
            user.put("/net/a", b"1")
        guarded.ctl("put", "/net/b", "1")
        eventually("the watch goes on", lambda: "b" in seen.view.entries)
        password_file.write_text("staple")
        user.put("/net/a", b"1")
        eventually("the watch goes on", lambda: "a" in seen.view.entries)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"], ids=["empty", "blank", "binary"])
def test_a_password_file_without_a_password_is_named(user: Store, password_file: Path, content: bytes) -> None:
    password_file.write_bytes(content)
    with pytest.raises(StoreError, match=str(password_file)):
        user.get("/net/a")


def test_an_etcd_that_asks_nobody_is_used_without_a_login_until_it_asks(etcd: Etcd) -> None:
    user = etcd.store(username="overlayd", password=PASSWORD)
    user.put("/net/a", b"1")
    etcd.enable_auth("overlayd", PASSWORD, prefix="/net/")
    user.put("/net/a", b"2")
    with pytest.raises(Refused, match="etcd wants a login"):
        etcd.store().get("/net/a")
