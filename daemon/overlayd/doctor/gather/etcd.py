"""etcd as it can be reached from here: each server by itself, the TLS files, and what the network's keys say."""

from __future__ import annotations

import email.utils
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from overlayd import daemon
from overlayd.doctor.facts import Endpoint, Etcd, PemFile, Published
from overlayd.doctor.gather import containers
from overlayd.doctor.x509 import Certificate, read_der, read_pem
from overlayd.errors import ConfigError, NetworkConfigError, OverlaydError
from overlayd.lease import MalformedLease, parse_lease
from overlayd.network import NetworkConfig
from overlayd.registry import CONFIG, SUBNETS, read_network_config
from overlayd.settings import Settings
from overlayd.store import endpoints as addresses
from overlayd.store.client import KeyValue, Store
from overlayd.store.openness import openness

TIMEOUT_S = 3.0
_EXPIRED, _NOT_YET, _NO_ISSUER, _SELF_SIGNED, _WRONG_HOST, _WRONG_ADDRESS = 10, 9, 20, 19, 62, 64


def read_etcd(settings: Settings) -> tuple[Etcd, NetworkConfig | None, tuple[Published, ...]]:
    """The store; the network config and the leases, where it gives them."""
    files = _files(settings)
    servers = _endpoints(settings)
    try:
        store = Store(daemon.store_settings(settings))
        try:
            raw = store.get(f"{settings.etcd_prefix}/{CONFIG}")
            entries, _revision = store.list_prefix(f"{settings.etcd_prefix}/{SUBNETS}")
            open_to = _open_to(store, settings.etcd_prefix)
        finally:
            store.close()
    except OverlaydError as error:
        found = Etcd(endpoints=servers, files=files, problem=error.message, advice=error.hint)
        return found, None, ()
    leases = tuple(published for entry in entries for published in _published(entry))
    config, problem, advice = None, None, None
    try:
        config = read_network_config(raw, settings.etcd_prefix)
    except NetworkConfigError as error:
        problem, advice = error.message, error.hint
    return (
        Etcd(
            endpoints=servers,
            files=files,
            config_problem=problem,
            config_advice=advice,
            ipv6=config is not None and 6 in config.versions,
            config=f"{config} by {config.backend_type}" if config is not None else None,
            leases=leases,
            open_to=open_to,
            containers=containers.who_reaches(settings.etcd_endpoints) if open_to else None,
        ),
        config,
        leases,
    )


def _open_to(store: Store, prefix: str) -> str | None:
    """What anybody may do there; None where etcd did not say."""
    try:
        found = openness(store, prefix)
    except OverlaydError:
        return None
    return " and ".join(word for word, may in (("read", found.read), ("write", found.write)) if may)


def _published(entry: KeyValue) -> list[Published]:
    name = entry.key.rpartition("/")[2]
    try:
        lease = parse_lease(name, entry.value)
    except MalformedLease:
        return []
    macs = {leg.version: leg.fields().get("vtepmac") for leg in lease.legs}
    return [
        Published(
            key=name,
            subnet=leg.subnet,
            public_ip=leg.public_ip,
            backend=lease.backend_type,
            mac=mac.lower() if isinstance(mac := macs[leg.version], str) else None,
        )
        for leg in lease.legs
    ]


def _files(settings: Settings) -> tuple[PemFile, ...]:
    named = {
        "etcd-cafile": settings.etcd_cafile,
        "etcd-certfile": settings.etcd_certfile,
        "etcd-keyfile": settings.etcd_keyfile,
    }
    found = [_file(setting, path) for setting, path in named.items() if path is not None]
    if settings.etcd_certfile and settings.etcd_keyfile and not any(file.problem for file in found):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(settings.etcd_certfile, settings.etcd_keyfile)
        except (OSError, ssl.SSLError) as error:
            path = settings.etcd_keyfile
            words = f"does not belong to {settings.etcd_certfile}" if "MISMATCH" in str(error) else str(error)
            found.append(PemFile(setting="etcd-keyfile", path=path, problem=f"{path} {words}"))
    return tuple(found)


def _file(setting: str, path: str) -> PemFile:
    try:
        text = Path(path).read_text(errors="replace")
    except OSError as error:
        return PemFile(setting=setting, path=path, problem=f"{path}: {error.strerror}")
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


def _endpoints(settings: Settings) -> tuple[Endpoint, ...]:
    try:
        parsed = [addresses.parse_endpoint(text) for text in settings.etcd_endpoints]
    except ConfigError as error:
        return (Endpoint(name=",".join(settings.etcd_endpoints), problem=error.message),)
    # Of several servers, gRPC checks all certificates against one name.
    names = [endpoint.host for endpoint in parsed if not _is_address(endpoint.host)]
    with ThreadPoolExecutor(max_workers=max(1, len(parsed))) as pool:
        return tuple(
            pool.map(
                lambda endpoint: _endpoint(
                    settings, endpoint, names[0] if names and len(parsed) > 1 else endpoint.host
                ),
                parsed,
            )
        )


def _endpoint(settings: Settings, endpoint: addresses.Endpoint, server_name: str) -> Endpoint:
    """Connect, shake hands and ask for the version, whose answer is dated (RFC 9110, 6.6.1)."""
    name = f"{'https' if endpoint.tls else 'http'}://{endpoint.host}:{endpoint.port}"
    try:
        plain = socket.create_connection((endpoint.host, endpoint.port), timeout=TIMEOUT_S)
    except OSError as error:
        return Endpoint(name=name, problem=f"no connection: {error.strerror or error}")
    with plain:
        try:
            stream = plain
            if endpoint.tls:
                stream = _context(settings).wrap_socket(plain, server_hostname=server_name)
            with stream:
                request = f"GET /version HTTP/1.1\r\nHost: {endpoint.host}\r\nConnection: close\r\n\r\n"
                stream.sendall(request.encode())
                answer = stream.recv(4096).decode("latin-1")
        except ssl.SSLCertVerificationError as error:
            return Endpoint(name=name, problem=_distrust(error, settings, endpoint, server_name))
        except ssl.SSLError as error:
            return Endpoint(name=name, problem=f"TLS: {_alert(error, settings)}")
        except OSError as error:
            return Endpoint(name=name, problem=f"no answer: {error.strerror or error}")
    if not answer.startswith("HTTP/"):
        return Endpoint(
            name=name, problem="what answers is no etcd" if answer else "hangs up: does it expect https://?"
        )
    return Endpoint(name=name, clock_offset_s=_offset_s(answer))


def _context(settings: Settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.etcd_cafile:
        context.load_verify_locations(cafile=settings.etcd_cafile)
    if settings.etcd_certfile and settings.etcd_keyfile:
        context.load_cert_chain(settings.etcd_certfile, settings.etcd_keyfile)
    return context


def _distrust(
    error: ssl.SSLCertVerificationError, settings: Settings, endpoint: addresses.Endpoint, server_name: str
) -> str:
    """Why the server's certificate is not believed, in words, with what it says of itself."""
    theirs = _their_certificate(endpoint)
    said = ""
    if theirs is not None:
        until = f"{theirs.not_before:%Y-%m-%d %H:%M} to {theirs.not_after:%Y-%m-%d %H:%M} UTC"
        said = f" (it is for {', '.join(theirs.names) or theirs.subject}, valid {until})"
    words = {
        _EXPIRED: "its certificate, or its CA's, has expired",
        _NOT_YET: "its certificate, or its CA's, is not valid yet",
        _NO_ISSUER: f"its certificate is not signed by the CA in {settings.etcd_cafile}",
        _SELF_SIGNED: f"its certificate is not signed by the CA in {settings.etcd_cafile}",
        _WRONG_HOST: f"its certificate is not for {server_name}",
        _WRONG_ADDRESS: f"its certificate is not for {server_name}",
    }.get(error.verify_code, f"its certificate is not trusted: {error.verify_message}")
    return f"{words}{said}"


def _their_certificate(endpoint: addresses.Endpoint) -> Certificate | None:
    """The server's certificate, unverified, only to be shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), timeout=TIMEOUT_S) as plain,
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


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
