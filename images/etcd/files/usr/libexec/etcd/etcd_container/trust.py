"""Checks the TLS files: can they be read, do they belong together, and will clients and peers accept them?

Keys never leave this module, and no message holds any of their content.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from etcd_container import settings as words
from etcd_container.problem import Problem

# X509_V_FLAG_PARTIAL_CHAIN: a certificate that is trusted by itself needs no CA above it. Python names it from 3.10 on.
_PARTIAL_CHAIN = 0x80000
_FILES = ("CERT_FILE", "KEY_FILE", "TRUSTED_CA_FILE", "CLIENT_CERT_FILE", "CLIENT_KEY_FILE")
_ROUNDS = 10


def check(settings: Mapping[str, str]) -> list[Problem]:
    """The problems of the files that the variables name. Each is read as the user that etcd runs as."""
    names = [f"ETCD_{side}{file}" for side in ("", "PEER_") for file in _FILES]
    names += ["ETCD_CLIENT_CRL_FILE", "ETCD_PEER_CRL_FILE", "ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"]
    found = [problem for name in names if settings.get(name) for problem in readable(name, Path(settings[name]))]
    if found:
        return found
    for side in ("CLIENT", "PEER"):
        files = words.tls(settings, side)
        if files.certificate and files.key:
            found += _pair(f"{files.prefix}CERT_FILE", files.certificate, f"{files.prefix}KEY_FILE", files.key)
        if files.authority:
            found += _authority(f"{files.prefix}TRUSTED_CA_FILE", files.authority)
    if not found:
        found += _rehearsals(settings)
    return found


def readable(name: str, path: Path) -> Iterator[Problem]:
    """Whether a file that a variable names can be read."""
    user, group = os.geteuid(), os.getegid()
    for folder in reversed(path.parents):
        if folder.is_dir() and not os.access(folder, os.X_OK):
            what = f"{name} is {path}, and user {user} may not enter {folder} ({_owner(folder)})"
            yield Problem(what, "on the host: chmod a+x the folder that is mounted there")
            return
    if not path.exists():
        yield Problem(f"{name} is {path}, which is not there", f"mount its folder: -v FOLDER:{path.parent}:ro")
    elif path.is_dir():
        what = f"{name} is {path}, which is a folder"
        yield Problem(what, "Docker makes an empty folder where the file that -v names is not on the host: look there")
    else:
        try:
            with path.open("rb") as file:
                empty = not file.read(1)
        except OSError as error:
            what = f"{name}: etcd runs as user {user} and group {group}, and may not read {path} ({_owner(path)}"
            yield Problem(
                f"{what}): {error.strerror}",
                f"on the host: chgrp {group} FILE && chmod 640 FILE; with SELinux also :Z behind the volume",
            )
        else:
            if empty:
                yield Problem(f"{name}: {path} is empty", "write the PEM file again")


def _owner(path: Path) -> str:
    found = path.stat()
    return f"owner {found.st_uid}:{found.st_gid}, mode {found.st_mode & 0o7777:04o}"


def server_context(files: words.Tls) -> ssl.SSLContext:
    """A context that serves as etcd does with these files. Raises ssl.SSLError or OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, files.certificate, files.key)
    if files.asks_for_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.authority)
    return context


def client_context(settings: Mapping[str, str], side: str) -> ssl.SSLContext:
    """A context that connects as this container's own client (the health check) or peer. Raises ssl.SSLError, OSError.

    A client trusts ETCDCTL_CACERT, else the CA that etcd itself trusts, else this etcd's one certificate: dates and
    names are looked at in any case. It shows ETCDCTL_CERT, else etcd's own.
    """
    files = words.tls(settings, side)
    authority, certificate, key = files.authority, files.certificate, files.key
    if side == "CLIENT":
        authority = settings.get("ETCDCTL_CACERT") or authority
        if settings.get("ETCDCTL_CERT"):
            certificate, key = settings["ETCDCTL_CERT"], settings.get("ETCDCTL_KEY", "")
    own = not certificate and words.true(settings, f"{files.prefix}AUTO_TLS")
    if own:
        # etcd made this certificate itself (AUTO_TLS): it holds no name that is dialled, and each peer has another one.
        certificate = str(Path(settings.get("ETCD_DATA_DIR", words.DATA), "fixtures", side.lower(), "cert.pem"))
    if own and side == "PEER":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    context = ssl.create_default_context(cafile=authority or certificate)
    context.check_hostname = not own
    context.verify_flags |= ssl.VerifyFlags(_PARTIAL_CHAIN)
    if files.asks_for_certificates:
        load(context, certificate, key)
    return context


def load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give a context its certificate. A key with a pass phrase is an error: nobody can be asked."""

    def no_password() -> str:
        raise ssl.SSLError("the key has a pass phrase, and etcd cannot ask for it")

    context.load_cert_chain(certificate, key, no_password)


def _pair(certificate_name: str, certificate: str, key_name: str, key: str) -> list[Problem]:
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)
    except ssl.SSLError as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            return [Problem(f"{key_name}: {key} is not the key of {certificate}", f"see that {certificate_name} fits")]
        what = f"{certificate_name} and {key_name}: etcd cannot use {certificate} and {key}: {reason(error)}"
        return [Problem(what, "both are PEM files, the key without a pass phrase")]
    return []


def _authority(name: str, path: str) -> list[Problem]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        return [Problem(f"{name}: {path} holds no certificate: {reason(error)}", "it is the CA's certificate, as PEM")]
    return []


def _rehearsals(settings: Mapping[str, str]) -> list[Problem]:
    """Warnings: etcd reads its certificates anew for each connection, so they may be replaced while it runs."""
    found: list[Problem] = []
    for side, name in (("CLIENT", "ETCD_ADVERTISE_CLIENT_URLS"), ("PEER", "ETCD_INITIAL_ADVERTISE_PEER_URLS")):
        files = words.tls(settings, side)
        if not files.certificate:
            continue
        for url in words.urls(settings, name):
            refused = rehearse(server_context(files), client_context(settings, side), url.host)
            if refused:
                what = f"{name} says {url}, where {files.certificate} will be refused: {refused}"
                found.append(
                    Problem(what, f"a certificate for {url.host}, or in {name} what it is valid for", fatal=False)
                )
    return found


def rehearse(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """A whole handshake in memory: why a client that dials `host` and the server would not agree; None if they do."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    try:
        for _ in range(_ROUNDS):
            for side in sides:
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        # In TLS 1.3 a client learns only from its first read that it was refused.
        sides[1].write(b"x")
        sides[0].read(1)
    except ssl.SSLWantReadError:
        return "the handshake did not end"
    except ssl.SSLError as error:
        return reason(error)
    return None


def reason(error: ssl.SSLError) -> str:
    """The reason of an error of OpenSSL, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    # An error that Python raised has no reason of OpenSSL.
    words = (getattr(error, "reason", None) or str(error.args[-1])).replace("_", " ").lower()
    # An alert of the other side: the protocol before it differs between versions of OpenSSL.
    _, alert, refusal = words.partition(" alert ")
    return f"refused by the other side: {refusal}" if alert else words
