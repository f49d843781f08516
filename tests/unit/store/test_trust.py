"""TLS and logins in every arrangement that etcd knows, and certificates that change while everything runs."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from overlayd.errors import StoreDenied, StoreError
from overlayd.store.client import Store
from overlayd.store.follow import Follower
from overlayd.store.servers import Refused
from tests.testbed.certificates import Authority, CertificatePair
from tests.testbed.polling import eventually
from tests.unit.store.conftest import PASSWORD, Etcd, following, serving


def tls(authority: Authority, *, client: CertificatePair | None = None) -> dict[str, Any]:
    """An arrangement: one server with a certificate; with `client`, none comes in without one."""
    pair = authority.issue("etcd", "IP:127.0.0.1")
    return {"certificates": [pair], "authority": authority.certificate, "client_certificate": client}


def files(pair: CertificatePair) -> dict[str, str]:
    return {"certfile": str(pair.certificate), "keyfile": str(pair.key)}


def works(store: Store) -> None:
    """A store on which every kind of call goes through, and a watch."""
    with following(store) as seen:
        lease = store.grant(60)
        assert store.create("/net/a", b"1", lease_id=lease)
        assert store.refresh(lease) > 0
        eventually("the watch tells", lambda: "a" in seen.view.entries)
        store.revoke(lease)
        eventually("the watch tells", lambda: "a" not in seen.view.entries)


@pytest.mark.parametrize("auth", [False, True], ids=["nobody", "user"])
@pytest.mark.parametrize("trust", ["plain", "ca", "client-certificate"])
def test_every_arrangement_works(tmp_path: Path, authority: Authority, trust: str, auth: bool) -> None:
    client = authority.issue("host") if trust == "client-certificate" else None
    settings = {"cafile": str(authority.certificate)} if trust != "plain" else {}
    with serving(tmp_path, **(tls(authority, client=client) if settings else {})) as etcd:
        if client is not None:
            settings |= files(client)
        if auth:
            etcd.enable_auth("overlayd", PASSWORD, prefix="/net/")
            settings |= {"username": "overlayd", "password": PASSWORD}
        works(etcd.store(**settings))


def test_without_a_ca_the_systems_own_count(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, **tls(authority)) as etcd:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        works(etcd.store())
        works(etcd.store(**files(authority.issue("host"))))
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
            etcd.store().get("/net/a")


def test_who_is_not_trusted_is_told_why(tmp_path: Path, authority: Authority) -> None:
    ca, client = str(authority.certificate), authority.issue("host")
    other = Authority(tmp_path / "other")
    good = {"cafile": ca, **files(client)}
    with serving(tmp_path, **tls(authority, client=client)) as etcd:
        etcd.enable_auth("overlayd", PASSWORD, prefix="/net/")
        for wrong in (
            {**good, "cafile": str(other.certificate)},
            {"cafile": ca},
            {"cafile": ca, **files(other.issue("stranger"))},
        ):
            with pytest.raises(StoreError, match="UNAVAILABLE") as caught:
                etcd.store(**wrong).get("/net/a")
            assert etcd.endpoint in str(caught.value)
            assert "check etcd-cafile, etcd-certfile and etcd-keyfile" in str(caught.value)
        for password, key, hint in (
            ("no", "/net/a", "check etcd-username and its password"),
            (PASSWORD, "/elsewhere", "grant the user a role"),
        ):
            with pytest.raises((Refused, StoreDenied), match=hint):
                etcd.store(**good, username="overlayd", password=password).get(key)


def test_each_of_several_servers_is_held_to_its_own_name(tmp_path: Path, authority: Authority) -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    # As usual, each certificate is good for one server only.
    pairs = [authority.issue(f"etcd{host[-1]}", f"IP:{host}") for host in hosts]
    with serving(tmp_path, hosts=hosts, certificates=pairs, authority=authority.certificate) as etcd:
        store = etcd.store(cafile=str(authority.certificate))
        with following(store) as seen:
            for member in etcd.members:
                member.kill()
                eventually("another one answers", partial(answers, store))
                eventually("it is written", partial(written, store, f"/net/{member.name}"))
                eventually("the watch tells", partial(contains, seen, member.name))
                etcd.start()


def contains(seen: Follower, name: str) -> bool:
    return name in seen.view.entries


def answers(store: Store) -> bool:
    """Whether a server answers; on a busy machine the one before may be on its way still."""
    with contextlib.suppress(StoreError):
        store.list_prefix("/net/")
        return True
    return False


def written(store: Store, key: str) -> bool:
    """Whether it could be written; not while the servers elect a leader."""
    with contextlib.suppress(StoreError):
        store.put(key, b"1")
        return True
    return False


def test_a_server_with_a_certificate_for_another_is_refused(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("etcd", "IP:127.0.0.9", "DNS:localhost")
    etcd = Etcd(tmp_path, certificates=[pair], authority=authority.certificate)
    ca = str(authority.certificate)
    try:
        etcd.start(wait=False)
        by_address = etcd.store(cafile=ca)
        eventually("it is up", lambda: "names in etcd's certificate" in problem(by_address))
        works(etcd.store(cafile=ca, endpoints=[etcd.endpoint.replace("127.0.0.1", "localhost")]))
    finally:
        etcd.end()


def problem(store: Store) -> str:
    try:
        store.get("/net/a")
    except StoreError as error:
        return str(error)
    return ""


def replace(target: Path, source: Path) -> None:
    target.write_bytes(source.read_bytes())


def test_new_certificates_are_taken_without_a_restart(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "overlayd")
    old, new = authority.issue("old-host"), authority.issue("new-host")
    mine = CertificatePair(certificate=tmp_path / "host.pem", key=tmp_path / "host.key")
    replace(mine.certificate, old.certificate)
    replace(mine.key, old.key)
    with serving(tmp_path, **tls(authority, client=authority.issue("root"))) as etcd:
        # etcd takes the name in a certificate for the user: that tells which one is shown to it.
        for user, may in (("old-host", "read"), ("new-host", "readwrite")):
            etcd.ctl("user", "add", f"{user}:unused")
            etcd.ctl("role", "add", user)
            etcd.ctl("role", "grant-permission", user, "--prefix=true", may, "/net/")
            etcd.ctl("user", "grant-role", user, user)
        etcd.ctl("user", "add", "root:unused")
        etcd.ctl("user", "grant-role", "root", "root")
        etcd.ctl("auth", "enable")
        store = etcd.store(cafile=str(authority.certificate), **files(mine))
        with following(store) as seen:
            with pytest.raises(StoreDenied, match="PERMISSION_DENIED"):
                store.put("/net/a", b"1")
            views = [seen.view]
            replace(mine.certificate, new.certificate)
            eventually("the half is seen", lambda: "certificates are not usable" in caplog.text)
            mine.key.unlink()
            etcd.ctl("put", "/net/b", "1")
            eventually("the watch goes on", lambda: "b" in seen.view.entries)
            mine.key.write_text("-----BEGIN")
            with pytest.raises(StoreDenied, match="PERMISSION_DENIED"):
                store.put("/net/a", b"1")
            views.append(seen.view)
            replace(mine.key, new.key)
            eventually("the new one is shown", lambda: "connected again" in caplog.text)
            store.put("/net/a", b"1")
            eventually("the watch goes on", lambda: "a" in seen.view.entries)
            assert all(view.connected for view in [*views, seen.view])
            assert "etcd is away" not in caplog.text


def test_a_new_ca_may_come_before_or_after_that_of_etcd(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    second = Authority(tmp_path / "second")
    ca = tmp_path / "ca.pem"
    replace(ca, authority.certificate)
    with serving(tmp_path, **tls(authority)) as etcd, following(store := etcd.store(cafile=str(ca))) as seen:
        replace(ca, second.certificate)
        eventually("it was tried", lambda: "the new certificates do not work" in caplog.text)
        store.put("/net/a", b"1")
        eventually("the watch goes on", lambda: "a" in seen.view.entries)
        etcd.stop()
        etcd.trust(second.certificate, [second.issue("etcd", "IP:127.0.0.1")])
        etcd.start()
        eventually("connected with the new one", lambda: seen.view.connected)
        store.put("/net/b", b"1")
        eventually("the watch goes on", lambda: "b" in seen.view.entries)
