"""An HTTP server that answers as a test wants it: with files, other things, half of them, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler


@dataclass(frozen=True)
class HttpReply:
    """What is sent. `cut` is where the connection breaks off; a `hangs` that is set ends the silence."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    hangs: threading.Event | None = None


class Handler(BaseHTTPRequestHandler):
    """Sends what the server's function `answer` says for a path."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        reply: HttpReply = self.server.answer(self.path.partition("?")[0])  # type: ignore[attr-defined]
        if reply.hangs is not None:
            reply.hangs.wait(60)
            return
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])

    def log_message(self, *_args: object) -> None:
        """Say nothing."""
