"""Why TLS to a server of etcd fails: what is wrong with the files, or with the server's certificate.

Whether it fails is decided by a connection such as the daemon's (gather/etcd.py).
"""

from __future__ import annotations

import email.utils
import socket
import ssl
from datetime import UTC, datetime

from overlayd.doctor.facts import PemFile
from overlayd.errors import StoreError
from overlayd.lib.x509 import Certificate, read_der, read_pem
from overlayd.settings import Settings
from overlayd.store.endpoints import EtcdEndpoint
from overlayd.store.trust import TrustFiles, read_pem_file, system_bundle

_EXPIRED, _NOT_YET, _NO_ISSUER, _SELF_SIGNED, _WRONG_HOST, _WRONG_ADDRESS = 10, 9, 20, 19, 62, 64


def files(settings: Settings) -> tuple[PemFile, ...]:
    """The files that the settings name, and what is wrong with each."""
    named = {
        "etcd-cafile": settings.etcd_cafile,
        "etcd-certfile": settings.etcd_certfile,
        "etcd-keyfile": settings.etcd_keyfile,
    }
    found = [_file(setting, path) for setting, path in named.items() if path is not None]
    if settings.etcd_certfile and settings.etcd_keyfile and not any(file.problem for file in found):
        try:
            trust_files(settings).read()
        except StoreError as error:
            path = settings.etcd_keyfile
            words = f"does not belong to {settings.etcd_certfile}" if "MISMATCH" in error.message else error.message
            found.append(PemFile(setting="etcd-keyfile", path=path, problem=f"{path} {words}"))
    return tuple(found)


def _file(setting: str, path: str) -> PemFile:
    try:
        text = read_pem_file(setting, path).decode("utf-8", "replace")
    except OSError as error:
        return PemFile(setting=setting, path=path, problem=f"{path}: {error.strerror}")
    except StoreError as error:
        return PemFile(setting=setting, path=path, problem=f"{error.message.partition(': ')[2]}; {error.hint}")
    if setting == "etcd-keyfile":
        problem = None if "PRIVATE KEY-----" in text else f"{path} holds no private key in PEM form"
        return PemFile(setting=setting, path=path, problem=problem)
    try:
        certificates = read_pem(text)
    except ValueError as error:
        return PemFile(setting=setting, path=path, problem=f"{path}: {error}")
    if not certificates:
        return PemFile(setting=setting, path=path, problem=f"{path} holds no certificate in PEM form")
    return PemFile(setting=setting, path=path, certificates=certificates)


def trust_files(settings: Settings) -> TrustFiles:
    """The files as the daemon reads them."""
    return TrustFiles(cafile=settings.etcd_cafile, certfile=settings.etcd_certfile, keyfile=settings.etcd_keyfile)


def explain(settings: Settings, endpoint: EtcdEndpoint, timeout_s: float) -> str | None:
    """What is wrong with a server that the daemon could not use; None where this look finds nothing."""
    try:
        answer = _ask(settings, endpoint, timeout_s)
    except ssl.SSLError as error:
        if isinstance(error, ssl.SSLCertVerificationError):
            return _distrust(error, settings, endpoint, timeout_s)
        return f"TLS: {_alert(error, settings)}"
    except StoreError as error:
        return error.message
    except OSError as error:
        return f"no {'connection' if isinstance(error, ConnectionError) else 'answer'}: {error.strerror or error}"
    if answer.startswith("HTTP/"):
        return None
    return "what answers is no etcd" if answer else "hangs up: does it expect https://?"


def clock_offset_s(settings: Settings, endpoint: EtcdEndpoint, timeout_s: float) -> float | None:
    """How far our clock is ahead of the server's, whose answers are dated (RFC 9110, 6.6.1); None: it did not say."""
    try:
        return _offset_s(_ask(settings, endpoint, timeout_s))
    except (OSError, StoreError):
        return None


def _ask(settings: Settings, endpoint: EtcdEndpoint, timeout_s: float) -> str:
    """Connect, shake hands and ask for the version over HTTP/1.1. Raises OSError, StoreError."""
    context = None
    if endpoint.tls:
        context = trust_files(settings).read().context()
        # As gRPC checks it.
        context.hostname_checks_common_name = False
    with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s) as plain:
        stream = context.wrap_socket(plain, server_hostname=endpoint.host) if context else plain
        with stream:
            request = f"GET /version HTTP/1.1\r\nHost: {endpoint.host}\r\nConnection: close\r\n\r\n"
            stream.sendall(request.encode())
            return stream.recv(4096).decode("latin-1")


def _distrust(error: ssl.SSLCertVerificationError, settings: Settings, endpoint: EtcdEndpoint, timeout_s: float) -> str:
    """Why the server's certificate is not believed, in words, with what it says of itself."""
    theirs = _their_certificate(endpoint, timeout_s)
    message = ""
    if theirs is not None:
        until = f"{theirs.not_before:%Y-%m-%d %H:%M} to {theirs.not_after:%Y-%m-%d %H:%M} UTC"
        whom = f"it is for {', '.join(theirs.names)}" if theirs.names else f"its common name is {theirs.subject}"
        message = f" ({whom}, valid {until})"
    ca = f"the CA in {settings.etcd_cafile}" if settings.etcd_cafile else f"a CA in {system_bundle()}: set etcd-cafile"
    other = f"its certificate is not for {endpoint.host}"
    if theirs is not None and not theirs.names:
        other = f"its certificate has no subjectAltName, which must hold {endpoint.host}"
    words = {
        _EXPIRED: "its certificate, or its CA's, has expired",
        _NOT_YET: "its certificate, or its CA's, is not valid yet",
        _NO_ISSUER: f"its certificate is not signed by {ca}",
        _SELF_SIGNED: f"its certificate is not signed by {ca}",
        _WRONG_HOST: other,
        _WRONG_ADDRESS: other,
    }.get(error.verify_code, f"its certificate is not trusted: {error.verify_message}")
    return f"{words}{message}"


def _their_certificate(endpoint: EtcdEndpoint, timeout_s: float) -> Certificate | None:
    """The server's certificate, unverified, only to be shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s) as plain,
            context.wrap_socket(plain) as stream,
        ):
            der = stream.getpeercert(binary_form=True)
        return read_der(der) if der else None
    except (OSError, ValueError):
        return None


def _alert(error: ssl.SSLError, settings: Settings) -> str:
    # OpenSSL's names for alerts begin with the protocol that had them first: SSLV3_ALERT_BAD_CERTIFICATE.
    reason = (error.reason or str(error)).replace("_", " ").lower().removeprefix("sslv3 ")
    # Not every server says "certificate required" (RFC 8446) when it is missing.
    if "alert" in reason and "certificate" in reason and settings.etcd_certfile is None:
        return "the server wants a client certificate: set etcd-certfile and etcd-keyfile"
    if "alert" in reason:
        return f"the server does not accept this host's certificate ({reason})"
    return "what answers speaks no TLS" if "wrong version" in reason else reason


def _offset_s(answer: str) -> float | None:
    for line in answer.splitlines():
        key, _, value = line.partition(":")
        if key.lower() == "date":
            try:
                return (datetime.now(UTC) - email.utils.parsedate_to_datetime(value.strip())).total_seconds()
            except (ValueError, TypeError):
                return None
    return None
