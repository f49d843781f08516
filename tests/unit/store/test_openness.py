"""Whether etcd is open to anybody is found out by trying, and the trial changes nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from overlayd.errors import StoreError, StoreFull
from overlayd.store.openness import Openness, openness
from tests.testbed.certificates import Authority, CertificatePair
from tests.testbed.polling import until
from tests.unit.store.conftest import PASSWORD, Etcd, serving
from tests.unit.store.test_registry import PREFIX, registry


def found(etcd: Etcd, **settings: Any) -> tuple[bool, bool]:
    seen = openness(etcd.store(**settings), PREFIX)
    assert seen.where == etcd.endpoint
    return seen.read, seen.write


def everything(etcd: Etcd) -> str:
    """All keys with their revisions, and etcd's own revision."""
    return etcd.ctl("get", "", "--from-key", "--write-out=fields")


@pytest.mark.parametrize("config", [None, '{"Network": "10.42.0.0/16"}'], ids=["no config", "a config"])
def test_an_etcd_without_users_is_open_and_the_trial_changes_nothing(etcd: Etcd, config: str | None) -> None:
    if config:
        etcd.ctl("put", f"{PREFIX}/config", config)
    before = everything(etcd)
    assert found(etcd) == (True, True)
    assert found(etcd, username="overlayd", password=PASSWORD) == (True, True)
    assert everything(etcd) == before


def test_an_etcd_with_users_is_closed_also_while_this_host_is_let_in(etcd: Etcd) -> None:
    etcd.enable_auth("overlayd", PASSWORD, prefix=PREFIX)
    store = etcd.store(username="overlayd", password=PASSWORD)
    store.put(f"{PREFIX}/config", b"{}")
    before = everything(etcd)
    assert found(etcd, username="overlayd", password=PASSWORD) == (False, False)
    assert everything(etcd) == before


def tls(authority: Authority, *, client: CertificatePair | None) -> dict[str, Any]:
    return {
        "certificates": [authority.issue("etcd", "IP:127.0.0.1")],
        "authority": authority.certificate,
        "client_certificate": client,
    }


def test_tls_alone_keeps_nobody_out(tmp_path: Path, authority: Authority) -> None:
    with serving(tmp_path, **tls(authority, client=None)) as etcd:
        pair = authority.issue("host")
        shown = {"certfile": str(pair.certificate), "keyfile": str(pair.key)}
        assert found(etcd, cafile=str(authority.certificate), **shown) == (True, True)


def test_who_must_show_a_certificate_is_no_stranger(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("host")
    with serving(tmp_path, **tls(authority, client=pair)) as etcd:
        shown = {"certfile": str(pair.certificate), "keyfile": str(pair.key)}
        etcd.store(cafile=str(authority.certificate), **shown).put(f"{PREFIX}/config", b"{}")
        assert found(etcd, cafile=str(authority.certificate), **shown) == (False, False)


def test_an_etcd_that_is_away_says_nothing(etcd: Etcd) -> None:
    etcd.stop()
    with pytest.raises(StoreError, match=etcd.endpoint):
        found(etcd)


def test_the_registry_warns_of_an_open_etcd(etcd: Etcd) -> None:
    with registry(etcd.store()) as one:
        until(lambda: one.warnings)
        (said,) = one.warnings
        assert f"etcd at {etcd.endpoint} takes writes from anybody" in said


def test_the_registry_does_not_warn_of_a_closed_one(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    etcd.enable_auth("overlayd", PASSWORD, prefix=PREFIX)
    asked: list[Openness] = []

    def watched(*words: Any) -> Openness:
        asked.append(openness(*words))
        return asked[-1]

    monkeypatch.setattr("overlayd.store.openness.openness", watched)
    with registry(etcd.store(username="overlayd", password=PASSWORD)) as one:
        until(lambda: asked)
        assert one.warnings == ()


def test_what_is_open_to_readers_only_is_said_too() -> None:
    seen = Openness(where="http://etcd:2379", read=True, write=False)
    assert "is read by anybody" in str(seen.warning)
    assert Openness(where="http://etcd:2379", read=False, write=False).warning is None


def test_an_etcd_without_room_does_not_say(tmp_path: Path) -> None:
    with serving(tmp_path, flags=["--quota-backend-bytes=1000000"]) as etcd:
        store = etcd.store()
        with contextlib.suppress(StoreFull):
            for _number in range(200):
                store.put("/filler", b"x" * 100_000)
        with pytest.raises(StoreError, match="space exceeded"):
            openness(store, PREFIX)
