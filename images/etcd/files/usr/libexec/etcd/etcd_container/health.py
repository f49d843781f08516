"""The health check: does this etcd serve, with a quorum, a client that checks its certificate?

etcd is reached where it listens in this container, and its certificate is looked at as by a client that dials
ETCD_ADVERTISE_CLIENT_URLS. /health is etcd's own: it goes through the whole cluster, and needs no login.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Mapping
from types import FrameType

from etcd_container import cluster, settings, start, trust

# The check with the start of Python must end within the 3 s that Docker gives it.
DEADLINE_S = 2.3
_MOST_BYTES = 4096
_WORD = {"https": "TLS", "http": "no TLS"}


class Unhealthy(Exception):
    """Why etcd does not serve."""


def main() -> int:
    """One line, and 0 if etcd serves, else 1."""
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    found = settings.complete(os.environ, start.address())
    try:
        line, status = f"healthy: {ask(found)}", 0
    except Unhealthy as error:
        line, status = f"unhealthy: {error}", 1
    sys.stdout.write(f"{line}\n")
    return status


def ask(found: Mapping[str, str]) -> str:
    """The line for an etcd that serves. Raises Unhealthy for one that does not."""
    try:
        listening = settings.urls(found, "ETCD_LISTEN_CLIENT_HTTP_URLS") or settings.urls(
            found, "ETCD_LISTEN_CLIENT_URLS"
        )
        advertised = settings.urls(found, "ETCD_ADVERTISE_CLIENT_URLS")
    except ValueError as error:
        raise Unhealthy(str(error)) from error
    if not listening or not advertised:
        raise Unhealthy("ETCD_LISTEN_CLIENT_URLS and ETCD_ADVERTISE_CLIENT_URLS say where etcd is to be looked for")
    at, told = listening[0], advertised[0]
    try:
        status, text = _get(found, at, told.host)
    except ssl.SSLCertVerificationError as error:
        raise Unhealthy(f"a client that dials {told} refuses etcd's certificate: {trust.reason(error)}") from error
    except ssl.SSLError as error:
        raise Unhealthy(f"TLS with {told} fails: {trust.reason(error)}") from error
    except TimeoutError as error:
        raise Unhealthy(f"{at} does not answer within {DEADLINE_S:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unhealthy(f"{at}: {cluster.why(error)}") from error
    reason = judge(status, text)
    if reason:
        raise Unhealthy(f"{told}: {reason}")
    return f"{told} serves ({_WORD[at.scheme]})"


def judge(status: int, text: bytes) -> str | None:
    """What is wrong according to /health, None for nothing. In etcd's JSON `health` is a string. Pure."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "health" not in found:
        return f"it answers with status {status}, and not as etcd does"
    if status == http.client.OK and str(found["health"]).lower() == "true":
        return None
    return str(found.get("reason") or "no quorum, or an alarm: etcdctl endpoint status, etcdctl alarm list")


def _get(found: Mapping[str, str], at: settings.Url, name: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(name, at.port)
    host = settings.ANY_ADDRESS.get(at.host, at.host)
    with socket.create_connection((host, at.port), timeout=DEADLINE_S) as plain:
        connection.sock = plain
        if at.scheme == "https":
            connection.sock = trust.client_context(found, "CLIENT").wrap_socket(plain, server_hostname=name)
        with connection.sock:
            try:
                connection.request("GET", "/health")
            except OSError:
                # TLS 1.3 refuses a client after the handshake: the reason can then be read.
                connection.sock.recv(1)
                raise
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_BYTES)


def _too_late(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError
