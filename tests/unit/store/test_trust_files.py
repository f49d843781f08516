"""PEM files that come one after the other, are half written, or hold something else."""

from __future__ import annotations

import logging
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from overlayd.errors import StoreError
from overlayd.store.trust import EXPIRY, TrustFiles
from tests.testbed.certificates import Authority, CertificatePair


class Folder:
    """A host's own three files."""

    def __init__(self, path: Path, authority: Authority, pair: CertificatePair) -> None:
        self.ca, self.certificate, self.key = path / "ca.pem", path / "host.pem", path / "host.key"
        self.ca.write_bytes(authority.certificate.read_bytes())
        self.certificate.write_bytes(pair.certificate.read_bytes())
        self.key.write_bytes(pair.key.read_bytes())
        self.trust = TrustFiles(cafile=str(self.ca), certfile=str(self.certificate), keyfile=str(self.key))


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Folder:
    return Folder(tmp_path, authority, authority.issue("host"))


def test_they_are_read_together(folder: Folder) -> None:
    read = folder.trust.read()
    assert (read.ca, read.certificate, read.key) == (
        folder.ca.read_bytes(),
        folder.certificate.read_bytes(),
        folder.key.read_bytes(),
    )
    assert not folder.trust.changed_since(read)
    assert "PRIVATE KEY" not in repr(read)


def test_their_ends_are_a_metric_and_those_of_new_ones_take_their_place(
    folder: Folder, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EXPIRY, "values", {})
    folder.trust.read()
    for name, path in (("etcd-cafile", folder.ca), ("etcd-certfile", folder.certificate)):
        assert EXPIRY.values[name] == ends_at(path)
    older = authority.issue("older", days_ago=1)
    folder.certificate.write_bytes(older.certificate.read_bytes())
    folder.key.write_bytes(older.key.read_bytes())
    before = EXPIRY.values["etcd-certfile"]
    folder.trust.read()
    assert EXPIRY.values["etcd-certfile"] == ends_at(older.certificate) < before


def test_the_ends_of_the_systems_cas_are_no_metric(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXPIRY, "values", {})
    monkeypatch.setenv("SSL_CERT_FILE", str(folder.ca))
    TrustFiles(cafile=None, certfile=None, keyfile=None).read()
    assert EXPIRY.values == {}


def ends_at(certificate: Path) -> float:
    """When a certificate ends, as OpenSSL says it, in seconds since the epoch."""
    words = ["openssl", "x509", "-in", str(certificate), "-noout", "-enddate", "-dateopt", "iso_8601"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    return datetime.fromisoformat(said.removeprefix("notAfter=").replace("Z", "+00:00")).timestamp()


def test_the_last_good_ones_count_until_new_ones_fit(
    folder: Folder, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    good = folder.trust.read()
    new = authority.issue("other")
    folder.certificate.write_bytes(new.certificate.read_bytes())
    assert folder.trust.changed_since(good)
    assert folder.trust.read() == good
    folder.key.unlink()
    assert folder.trust.changed_since(good)
    assert folder.trust.read() == good
    folder.key.write_bytes(new.key.read_bytes()[:40])
    assert folder.trust.read() == good
    said = len(caplog.records)
    assert folder.trust.read() == good
    # The same trouble is told once.
    assert len(caplog.records) == said > 0
    folder.key.write_bytes(new.key.read_bytes())
    read = folder.trust.read()
    assert read != good
    assert not folder.trust.changed_since(read)


def test_a_link_that_points_elsewhere_is_a_change(folder: Folder, tmp_path: Path, authority: Authority) -> None:
    good = folder.trust.read()
    target = tmp_path / "elsewhere.pem"
    target.write_bytes(Authority(tmp_path / "second").certificate.read_bytes())
    link = tmp_path / "link.pem"
    link.symlink_to(target)
    link.replace(folder.ca)
    assert folder.trust.changed_since(good)
    assert folder.trust.read().ca == target.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_holds_no_certificate_is_named(folder: Folder, content: bytes) -> None:
    folder.ca.write_bytes(content)
    with pytest.raises(StoreError, match=f"etcd-cafile: {folder.ca} holds no good certificate"):
        folder.trust.read()


def test_a_key_for_another_certificate_and_one_with_a_passphrase_are_named(
    folder: Folder, authority: Authority
) -> None:
    key = folder.key.read_bytes()
    folder.key.write_bytes(authority.issue("other").key.read_bytes())
    with pytest.raises(StoreError, match="do not go together: KEY_VALUES_MISMATCH"):
        folder.trust.read()
    folder.key.write_bytes(key)
    argv = ["openssl", "pkey", "-aes128", "-passout", "pass:secret", "-in", str(folder.key)]
    folder.key.write_bytes(subprocess.run(argv, capture_output=True, check=True).stdout)
    with pytest.raises(StoreError, match="the key without a passphrase"):
        folder.trust.read()


def test_a_file_that_is_gone_is_named(folder: Folder) -> None:
    folder.certificate.unlink()
    with pytest.raises(StoreError, match=str(folder.certificate)):
        folder.trust.read()


def test_a_mark_that_an_editor_put_before_pem_is_taken_off(folder: Folder) -> None:
    good = folder.trust.read()
    for path in (folder.ca, folder.certificate, folder.key):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read = TrustFiles(cafile=str(folder.ca), certfile=str(folder.certificate), keyfile=str(folder.key)).read()
    assert (read.ca, read.certificate, read.key) == (good.ca, good.certificate, good.key)


def test_der_is_named_and_the_hint_makes_pem_of_it(folder: Folder) -> None:
    for path, command in ((folder.ca, "x509"), (folder.certificate, "x509"), (folder.key, "pkey")):
        pem = path.read_bytes()
        to_der = ["openssl", command, "-in", str(path), "-outform", "der"]
        path.write_bytes(subprocess.run(to_der, check=True, capture_output=True).stdout)
        with pytest.raises(StoreError, match=f"{path} is DER, not PEM") as caught:
            TrustFiles(cafile=str(folder.ca), certfile=str(folder.certificate), keyfile=str(folder.key)).read()
        subprocess.run(str(caught.value.hint).split(), check=True, capture_output=True)
        assert Path(f"{path}.pem").read_bytes().split() == pem.split()
        path.write_bytes(pem)


def test_a_system_without_files_in_memory_checks_them_too(
    folder: Folder, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.memfd_create")
    assert folder.trust.read().certificate == folder.certificate.read_bytes()
    folder.key.write_bytes(authority.issue("other").key.read_bytes())
    with pytest.raises(StoreError, match="do not go together"):
        TrustFiles(cafile=str(folder.ca), certfile=str(folder.certificate), keyfile=str(folder.key)).read()
