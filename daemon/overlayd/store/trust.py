"""CA, certificate and key as PEM files: read together, used when they fit each other, read again when changed."""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from overlayd.errors import StoreError
from overlayd.lib.counters import gauge
from overlayd.lib.log import logger
from overlayd.lib.quick_dataclass import dataclass

if TYPE_CHECKING:
    import ssl

log = logger("store")

EXPIRY = gauge(
    "overlayd_certificate_expiry_timestamp_seconds",
    "When the certificates in a file end, in seconds since the epoch: the first of a chain, the last of several CAs.",
    label="file",
)

# Where systems keep the CAs that they trust: Debian; EL 7 to 9; EL 10; others. gRPC has a bundle of its own, which
# knows nothing of a CA that an administrator added.
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

# How every certificate and key begins in DER.
_SEQUENCE = b"\x30"

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What one TLS connection is made with, as PEM; `stamp` says which version of the files that is."""

    ca: bytes
    certificate: bytes | None
    key: bytes | None = field(repr=False)
    stamp: Stamp = field(compare=False)

    def context(self) -> ssl.SSLContext:
        """A context for Python's ssl: a client that trusts this CA and shows this certificate.

        Raises ssl.SSLError; ValueError where there is no CA at all.
        """
        import ssl  # noqa: PLC0415

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Comments may be in any alphabet.
        context.load_verify_locations(cadata=self.ca.decode("ascii", "ignore"))
        if self.certificate is not None and self.key is not None:
            with _in_memory(self.certificate) as certificate, _in_memory(self.key) as key:
                # Without a password function, OpenSSL asks at the terminal.
                context.load_cert_chain(certificate, key, password=lambda: b"")
        return context


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of a file with that content which has no name in any folder."""
    with _anonymous_file() as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _anonymous_file() -> IO[bytes]:
    try:
        return os.fdopen(os.memfd_create("pem"), "wb")
    except (AttributeError, OSError):
        # Neither CentOS 7's C library nor every kernel of its has it.
        import tempfile  # noqa: PLC0415

        return tempfile.TemporaryFile()


def read_pem_file(setting: str, path: str) -> bytes:
    """The content of a PEM file, without a byte order mark. Raises OSError; StoreError where it is DER."""
    content = Path(path).read_bytes()
    if b"-----BEGIN " not in content and content[:1] == _SEQUENCE:
        word = "pkey" if setting == "etcd-keyfile" else "x509"
        raise StoreError(
            f"{setting}: {path} is DER, not PEM", hint=f"openssl {word} -inform der -in {path} -out {path}.pem"
        )
    return content.removeprefix(codecs.BOM_UTF8)


def system_bundle() -> str | None:
    """The file with the CAs that this system trusts; SSL_CERT_FILE names another, as it does for OpenSSL and Go."""
    named = os.environ.get("SSL_CERT_FILE")
    return next((path for path in (named, *SYSTEM_BUNDLES) if path and Path(path).is_file()), None)


class TrustFiles:
    """The files of one store. Somebody replaces them one by one: until they fit again, the last good ones are used."""

    def __init__(self, *, cafile: str | None, certfile: str | None, keyfile: str | None) -> None:
        # The CAs of a whole system end at any time, and are nobody's to renew here.
        self._own_ca = cafile is not None
        self._cafile = cafile or system_bundle() or SYSTEM_BUNDLES[0]
        self._pair = (certfile, keyfile) if certfile and keyfile else None
        self._good: Trust | None = None
        self._logged: str | None = None

    def read(self) -> Trust:
        """The files' content now, or the last that was good. Raises StoreError where none has been good yet."""
        try:
            self._good = self._read()
            self._logged = None
            self._note_expiry(self._good)
        except StoreError as error:
            if self._good is None:
                raise
            if self._logged != error.message:
                log.warning("certificates are not usable; going on with those from before", problem=error.message)
            self._logged = error.message
        return self._good

    def changed_since(self, trust: Trust) -> bool:
        """Whether a file is another one, or was written to, since `trust` was read; also while one is missing."""
        try:
            return self._stamp() != trust.stamp
        except OSError:
            return True

    def _read(self) -> Trust:
        try:
            stamp = self._stamp()
            ca = read_pem_file("etcd-cafile", self._cafile)
            certificate, key = None, None
            if self._pair is not None:
                certificate = read_pem_file("etcd-certfile", self._pair[0])
                key = read_pem_file("etcd-keyfile", self._pair[1])
            trust = Trust(ca=ca, certificate=certificate, key=key, stamp=stamp)
            self._check(trust)
            if self._stamp() != stamp:
                raise StoreError("etcd's certificates are just being written")
        except OSError as error:
            raise StoreError(
                f"cannot read a certificate or key for etcd: {error}", hint="is it there, and readable by root?"
            ) from error
        return trust

    def _note_expiry(self, trust: Trust) -> None:
        # Only where etcd is asked by TLS.
        from overlayd.lib.x509 import read_pem  # noqa: PLC0415

        for name, pem, decides in (("etcd-cafile", trust.ca, max), ("etcd-certfile", trust.certificate or b"", min)):
            # What OpenSSL takes, and this reader does not, is no reason to refuse it.
            with contextlib.suppress(ValueError):
                found = [one.not_after for one in read_pem(pem.decode("ascii", errors="replace"))]
                if found and (name != "etcd-cafile" or self._own_ca):
                    EXPIRY.set(decides(found).timestamp(), of=name)

    def _check(self, trust: Trust) -> None:
        # 5 MB resident: not for a daemon that talks to etcd without TLS.
        import ssl  # noqa: PLC0415

        # gRPC accepts any content, and then fails every connection without saying why.
        try:
            replace(trust, certificate=None, key=None).context()
        except (ssl.SSLError, ValueError) as error:
            reason = (error.reason if isinstance(error, ssl.SSLError) else None) or error
            raise StoreError(f"etcd-cafile: {self._cafile} holds no good certificate: {reason}") from error
        if self._pair is None:
            return
        try:
            trust.context()
        except ssl.SSLError as error:
            raise StoreError(
                f"etcd-certfile {self._pair[0]} and etcd-keyfile {self._pair[1]} do not go together: {error.reason}",
                hint="both in PEM, the key without a passphrase, and the certificate for this key",
            ) from error

    def _stamp(self) -> Stamp:
        found = [Path(path).stat() for path in (self._cafile, *(self._pair or ()))]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)
