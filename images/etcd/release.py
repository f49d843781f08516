"""etcd's own release, for bases whose repositories have no etcd: one tarball, known by its SHA-256."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path

from images.engine import inputs
from images.engine.errors import BuildError
from images.engine.graph import CACHE, Target
from images.engine.step import Step

NAME = "images.etcd.release"
VERSION = "3.5.21"
SHA256 = "adddda4b06718e68671ffabff2f8cee48488ba61ad82900e639d108f2148501c"
URL = f"https://github.com/etcd-io/etcd/releases/download/v{VERSION}/etcd-v{VERSION}-linux-amd64.tar.gz"
FOLDER = CACHE / "etcd"
MOUNT = "/run/overlayd/etcd"
INSTALL_SCRIPT = f"""\
tar --extract --gzip --file {MOUNT}/etcd.tar.gz --directory /tmp --strip-components=1
install -m 755 /tmp/etcd /tmp/etcdctl /usr/bin/
"""
_TIMEOUT_S = 30.0


def target(url: str = URL) -> Target:
    """The target that fetches the tarball. `url` may be another place with the same tarball: it is no input."""

    def build(step: Step) -> None:
        out = step.output(FOLDER)
        out.mkdir()
        fetch(out / "etcd.tar.gz", url, SHA256, step)

    return Target(name=NAME, build=build, inputs=inputs.of_values(sha256=SHA256), outputs=(FOLDER,), network=True)


def fetch(to: Path, url: str, sha256: str, step: Step | None = None) -> None:
    """Download a file whose SHA-256 is known. Raises BuildError when it does not come or is another file."""
    hashed = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, to.open("wb") as file:
            while chunk := answer.read(1 << 20):
                if step is not None:
                    step.stop.check()
                hashed.update(chunk)
                file.write(chunk)
    except OSError as error:
        raise BuildError(
            f"etcd's release did not come from {url}: {error}",
            hint="build on the base debian12-rpm, which has a package of etcd, or use an etcd that runs elsewhere",
        ) from error
    if hashed.hexdigest() != sha256:
        to.unlink()
        raise BuildError(f"{url} has the SHA-256 {hashed.hexdigest()}, and {sha256} was expected")
