"""A real registry on the loopback (Debian's docker-registry), for as long as a test needs it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.testbed.certificates import CertificatePair
from tests.testbed.polling import eventually
from tests.testbed.ports import free_port

# Docker takes all of 127.0.0.0/8 for registries that need no TLS.
HOST = "127.0.0.1"
USER, PASSWORD = "pusher", "secret"
# bcrypt of the password: the one kind that the registry reads.
_HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"


@contextmanager
def registry(folder: Path, *, tls: CertificatePair | None = None, login: bool = False) -> Iterator[str]:
    """Run a registry that keeps everything in `folder`; its HOST:PORT. It is ended with the block."""
    folder.mkdir()
    port = free_port()
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": f"{HOST}:{port}"},
    }
    if tls is not None:
        settings["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    if login:
        (folder / "htpasswd").write_text(_HTPASSWD)
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    # JSON is YAML.
    (folder / "config.yml").write_text(json.dumps(settings))
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log) as process,
    ):
        try:
            eventually("the registry answers", lambda: _answers(port))
            yield f"{HOST}:{port}"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False
