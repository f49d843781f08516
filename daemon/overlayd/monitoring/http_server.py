"""Serves endpoints over HTTP from threads of its own; nothing that a client does reaches the rest of the daemon."""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv6Address, ip_address
from typing import Any

from overlayd import __version__
from overlayd.errors import ConfigError
from overlayd.lib.log import logger
from overlayd.monitoring.endpoints import Endpoints, Response

log = logger("monitoring")

# A client gets this long for each read and write. The number of clients at once, and so of threads, is bounded: a new
# client takes the place of the oldest, so clients that connect and send nothing cannot keep others out.
SILENCE_S = 5.0
MOST_CLIENTS = 16
POLL_S = 0.2


class PortTaken(ConfigError):
    """Another program has the port. It may be any user's: every user may take a port from 1024 on."""


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """GET and HEAD of the endpoints, by path; 404 for any other path. No access log."""

    # Not http.server.HTTPServer: it asks DNS for the host's name before it serves.
    daemon_threads = True
    # A restarted daemon takes the port again at once (SO_REUSEADDR, socket(7)).
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: str, port: int) -> None:
        """Take the port; who connects waits until `start`. Raises ConfigError, PortTaken."""
        self.address_family = socket.AF_INET6 if isinstance(ip_address(address), IPv6Address) else socket.AF_INET
        self._endpoints: Endpoints = {}
        self._clients: dict[socket.socket, None] = {}
        self._clients_lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_S,), name="monitoring", daemon=True)
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            hint = f"see who has the port: ss -tlpn 'sport = :{port}'; or set another healthz-port, 0 for none"
            if error.errno == errno.EADDRNOTAVAIL:
                hint = "healthz-ip must be an address of this host, or 0.0.0.0 or :: for all of them"
            kind = PortTaken if error.errno == errno.EADDRINUSE else ConfigError
            raise kind(f"cannot serve /healthz on {where}: {error.strerror}", hint=hint) from error

    @property
    def where(self) -> str:
        """Address and port, as they stand in a URL."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if self.address_family == socket.AF_INET6 else f"{host}:{port}"

    def start(self, endpoints: Endpoints) -> None:
        """Begin to serve."""
        self._endpoints = endpoints
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every client's connection. Also good before `start`."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        with self._clients_lock:
            for client in self._clients:
                _cut_off(client)

    def respond(self, path: str) -> Response | None:
        """The response of the endpoint at a path; None where there is none."""
        make = self._endpoints.get(path.partition("?")[0])
        return None if make is None else make()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer the client in a thread; where there are too many clients, the oldest is cut off."""
        with self._clients_lock:
            if len(self._clients) >= MOST_CLIENTS:
                oldest = next(iter(self._clients))
                del self._clients[oldest]
                _cut_off(oldest)
            self._clients[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a client, and close its connection."""
        with self._clients_lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log a bug; a client that went away is none. Neither ends the server."""
        problem = sys.exc_info()[1]
        write = log.debug if isinstance(problem, OSError) else log.error
        write("a request was not answered", peer=client_address[0], problem=repr(problem))


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = SILENCE_S

    def do_GET(self) -> None:
        response = self.server.respond(self.path)
        if response is None:
            self._answer(Response(code=404, content_type="text/plain", text="/healthz /readyz /metrics\n"))
        else:
            self._answer(response)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        # http.server answers 501 to a method that it does not know; here such a method is not allowed.
        code = 405 if code == HTTPStatus.NOT_IMPLEMENTED else code
        self._answer(Response(code=code, content_type="text/plain", text=f"{HTTPStatus(code).phrase}\n"))

    def version_string(self) -> str:
        return f"overlayd/{__version__}"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """No access log: probes come every few seconds."""

    def _answer(self, response: Response) -> None:
        body = response.text.encode()
        self.send_response(response.code)
        if response.code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _cut_off(client: socket.socket) -> None:
    # Its thread wakes up, reads the end of the stream, and closes it.
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
