"""CA, certificate and key as PEM files: read together, believed when they fit each other, read again when changed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from overlayd.errors import StoreError
from overlayd.log import logger

if TYPE_CHECKING:
    import ssl

log = logger("store")

# Where systems keep the CAs that they trust: Debian; EL 7 to 9; EL 10; others. gRPC has a bundle of its own, which
# knows nothing of a CA that an administrator added.
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What one TLS connection is made with, as PEM; `stamp` says which state of the files that was."""

    ca: bytes
    certificate: bytes | None
    key: bytes | None = field(repr=False)
    stamp: Stamp = field(compare=False)


def system_bundle() -> str | None:
    """The file with the CAs that this system trusts; SSL_CERT_FILE names another, as it does for OpenSSL and Go."""
    named = os.environ.get("SSL_CERT_FILE")
    return next((path for path in (named, *SYSTEM_BUNDLES) if path and Path(path).is_file()), None)


class TrustFiles:
    """The files of one store. They are replaced one by one: until they fit again, the last good ones count."""

    def __init__(self, *, cafile: str | None, certfile: str | None, keyfile: str | None) -> None:
        self._cafile = cafile or system_bundle() or SYSTEM_BUNDLES[0]
        self._pair = (certfile, keyfile) if certfile and keyfile else None
        self._good: Trust | None = None
        self._complained: str | None = None

    def read(self) -> Trust:
        """What the files say now, or the last that was good. StoreError where there has been nothing good yet."""
        try:
            self._good = self._read()
            self._complained = None
        except StoreError as error:
            if self._good is None:
                raise
            if self._complained != error.message:
                log.warning("certificates are not usable; going on with those from before", problem=error.message)
            self._complained = error.message
        return self._good

    def changed_since(self, trust: Trust) -> bool:
        """Whether a file is another one, or was written to, since `trust` was read; also while one is missing."""
        try:
            return self._stamp() != trust.stamp
        except OSError:
            return True

    def _read(self) -> Trust:
        # 5 MB resident, which a daemon that talks to etcd in plain text does without.
        import ssl  # noqa: PLC0415

        try:
            stamp = self._stamp()
            ca = Path(self._cafile).read_bytes()
            certificate, key = (Path(path).read_bytes() for path in self._pair) if self._pair else (None, None)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._check(context)
            if self._stamp() != stamp:
                raise StoreError("etcd's certificates are just being written")
        except OSError as error:
            raise StoreError(
                f"cannot read a certificate or key for etcd: {error}", hint="is it there, and readable by root?"
            ) from error
        return Trust(ca=ca, certificate=certificate, key=key, stamp=stamp)

    def _check(self, context: ssl.SSLContext) -> None:
        import ssl  # noqa: PLC0415

        # gRPC takes anything, and then fails every connection without saying why.
        try:
            context.load_verify_locations(self._cafile)
        except ssl.SSLError as error:
            raise StoreError(f"etcd-cafile: {self._cafile} holds no good certificate: {error.reason}") from error
        if self._pair is None:
            return
        try:
            context.load_cert_chain(*self._pair, password=lambda: b"")
        except ssl.SSLError as error:
            raise StoreError(
                f"etcd-certfile {self._pair[0]} and etcd-keyfile {self._pair[1]} do not go together: {error.reason}",
                hint="both in PEM, the key without a passphrase, and the certificate for this key",
            ) from error

    def _stamp(self) -> Stamp:
        found = [Path(path).stat() for path in (self._cafile, *(self._pair or ()))]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)
