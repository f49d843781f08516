"""Settings for etcd that contradict each other, or name what is not there, are told before anything is dialled."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlayd.errors import ConfigError
from overlayd.store import trust
from overlayd.store.access import StoreSettings, check

PLAIN = ("http://198.18.0.1:2379",)
TLS = ("https://198.18.0.1:2379",)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some.pem"
    path.touch()
    return str(path)


def refused(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check(StoreSettings(**settings))  # type: ignore[arg-type]
    return str(caught.value)


def test_what_belongs_together_is_set_together(file: str) -> None:
    assert "etcd-certfile and etcd-keyfile go together" in refused(endpoints=TLS, cafile=file, certfile=file)
    assert "etcd-certfile and etcd-keyfile go together" in refused(endpoints=TLS, cafile=file, keyfile=file)
    assert "only one is set" in refused(endpoints=PLAIN, username="overlayd")
    assert "only one is set" in refused(endpoints=PLAIN, password="secret")
    assert "only one is set" in refused(endpoints=PLAIN, password_file=file)
    assert "both set" in refused(endpoints=PLAIN, username="overlayd", password="secret", password_file=file)


def test_certificates_without_encryption_are_a_mistake(file: str) -> None:
    said = refused(endpoints=PLAIN, cafile=file)
    assert "etcd-cafile is set but http://198.18.0.1:2379 is not encrypted" in said
    assert "https://" in said
    assert "etcd-certfile is set" in refused(endpoints=PLAIN, certfile=file, keyfile=file)


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile", "password_file"])
def test_a_file_that_is_not_there_is_named(name: str, file: str, tmp_path: Path) -> None:
    others = {"cafile": file, "certfile": file, "keyfile": file, "password_file": file, "username": "overlayd"}
    missing = str(tmp_path / "missing")
    said = refused(endpoints=TLS, **{**others, name: missing})
    assert said == f"etcd-{name.replace('_', '-')}: {missing} is not a file"


def test_encryption_needs_a_ca_from_somewhere(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.setattr(trust, "SYSTEM_BUNDLES", ("/nonexistent/ca.pem",))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert "set etcd-cafile" in refused(endpoints=TLS)
    monkeypatch.setenv("SSL_CERT_FILE", file)
    assert [endpoint.tls for endpoint in check(StoreSettings(endpoints=TLS))] == [True]


def test_a_password_that_everybody_can_read_is_complained_of(file: str, caplog: pytest.LogCaptureFixture) -> None:
    for mode in (0o640, 0o644):
        Path(file).chmod(mode)
        check(StoreSettings(endpoints=PLAIN, username="overlayd", password_file=file))
    assert [record.message for record in caplog.records] == ["every user of this host can read etcd's password"]


def test_passwords_are_in_no_repr_and_no_message(file: str) -> None:
    settings = StoreSettings(endpoints=PLAIN, username="overlayd", password="s3cret")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in refused(endpoints=PLAIN, password="s3cret")
    assert "s3cret" not in refused(endpoints=("https://overlayd:s3cret@198.18.0.1",))
