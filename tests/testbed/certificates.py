"""A CA for the tests, and certificates by it, made with the openssl command."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2")
_FAKETIME = ("LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1", "FAKETIME_DISABLE_SHM=1")


@dataclass(frozen=True, kw_only=True)
class CertificatePair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """One CA in a folder of its own; the same one again if it is there already."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = CertificatePair(certificate=folder / "ca.pem", key=folder / "ca.key")
        if not self._own.certificate.exists():
            _openssl(*_EC, *_out(self._own), "-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign")

    @property
    def certificate(self) -> Path:
        """What those hold who trust this CA."""
        return self._own.certificate

    def issue(self, name: str, *alternatives: str, days_ago: int = 0) -> CertificatePair:
        """A certificate for `name` and, as in `IP:198.18.0.1` or `DNS:etcd`, for what it is reached by.

        It is valid for two days from now, or from `days_ago`.
        """
        pair = CertificatePair(certificate=self._folder / f"{name}.pem", key=self._folder / f"{name}.key")
        words = [*_EC, *_out(pair), "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:FALSE"]
        words += ["-addext", "extendedKeyUsage=serverAuth,clientAuth"]
        if alternatives:
            words += ["-addext", f"subjectAltName={','.join(alternatives)}"]
        # Not the command `faketime`: what it leaves in /dev/shm when it is killed makes a later one fail.
        past = ("env", *_FAKETIME, f"FAKETIME=-{days_ago}d") if days_ago else ()
        _openssl(*words, "-CA", str(self._own.certificate), "-CAkey", str(self._own.key), before=past)
        return pair


def _out(pair: CertificatePair) -> tuple[str, ...]:
    return ("-keyout", str(pair.key), "-out", str(pair.certificate))


def _openssl(*words: str, before: Sequence[str] = ()) -> None:
    done = subprocess.run([*before, "openssl", "req", "-x509", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
