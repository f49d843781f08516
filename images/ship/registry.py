"""Pushes compressed images to a registry with skopeo: all of them by digest, then all of them by tag.

skopeo finds the user's login (`skopeo login`, or docker's) and the certificates below /etc/containers/certs.d.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from images.engine import process, sandbox
from images.engine.errors import BuildCommandFailed, BuildError
from images.engine.process import Stop
from images.ship.compressed import CompressedImage

# A host with a dot or a port, or localhost. Docker takes any other name for a user of Docker Hub.
_HOST = r"(?:localhost|(?=[^/]*[.:])[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(rf"(?P<host>{_HOST})(?P<prefix>(?:/{_PART})*)")
# A pattern for skopeo's last line, what it means, and what to do. The first that fits counts.
_MEANINGS = (
    (
        r"server gave HTTP response to HTTPS client",
        "{host} speaks plain HTTP",
        "--no-tls-verify pushes to it all the same",
    ),
    (
        r"x509|certificate|tls:",
        "{host} has a certificate that no authority known here has signed",
        "put its CA into /etc/containers/certs.d/{host}/ca.crt, or give --no-tls-verify",
    ),
    (
        r"unauthorized|authentication required",
        "{host} needs another login",
        "skopeo login {host}; REGISTRY_AUTH_FILE names another file of logins",
    ),
    (
        r"denied|forbidden",
        "{host} does not let this login push there",
        "push to a name that is yours: --registry {host}/PREFIX",
    ),
    (
        r"connection refused|no such host|no route to host|i/o timeout|network is unreachable|server misbehaving",
        "no registry answers at {host}",
        "see that it runs and that the name and port are right",
    ),
    (r"no space left on device|insufficient storage", "{host} has no room left", "make room there, and push again"),
)


@dataclass(frozen=True, kw_only=True)
class ImageRegistry:
    """Where to push: `host` with its port, and `prefix`, which is empty or begins with a slash."""

    host: str
    prefix: str = ""
    tls_verify: bool = True

    def by_digest(self, image: CompressedImage) -> str:
        """The name by which this very image can be pulled, whatever tags are moved."""
        return f"{self.host}{self.prefix}/{image.repository}@{image.manifest.digest}"

    def by_tag(self, image: CompressedImage) -> str:
        return f"{self.host}{self.prefix}/{image.name}"


def parse(given: str, *, tls_verify: bool = True) -> ImageRegistry:
    """A registry out of HOST[:PORT][/prefix]. Raises BuildError for anything else."""
    found = _REGISTRY.fullmatch(given.rstrip("/"))
    if found is None:
        raise BuildError(
            f"--registry={given!r} names no registry",
            hint="allowed: HOST:PORT or HOST.DOMAIN, then /prefix in small letters; no http://, no tag",
        )
    return ImageRegistry(host=found["host"], prefix=found["prefix"], tls_verify=tls_verify)


def push(registry: ImageRegistry, images: Iterable[CompressedImage], stop: Stop, report: Callable[[str], None]) -> None:
    """Push images; `report` is called with the name by digest of each. Tags are moved when all images are there.

    Digests stay the same, so that the image pulled by such a name is the one that was pushed. Blobs that the registry
    has are not sent again. Raises BuildError, which says what the registry did, and Cancelled.
    """
    sandbox.require("skopeo")
    images = list(images)
    for image in images:
        _copy(registry, image, registry.by_digest(image), stop)
        report(registry.by_digest(image))
    for image in images:
        _copy(registry, image, registry.by_tag(image), stop)


def _copy(registry: ImageRegistry, image: CompressedImage, to: str, stop: Stop) -> None:
    with tempfile.TemporaryFile("w+b") as log:
        try:
            process.run(
                [
                    # Images are read from our own folder, where there are no signatures to check.
                    *("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"),
                    f"--dest-tls-verify={'true' if registry.tls_verify else 'false'}",
                    f"oci:.:{image.name}",
                    f"docker://{to}",
                ],
                log=log,
                stop=stop,
                # In skopeo's name of a layout the path must not have a colon, so it is run in the folder.
                cwd=image.folder,
                # The user's logins are found by variables.
                base_env=os.environ,
            )
        except BuildCommandFailed as error:
            log.seek(0)
            raise _explained(registry, image, log.read().decode(errors="replace"), error) from error


def _explained(registry: ImageRegistry, image: CompressedImage, said: str, error: BuildError) -> BuildError:
    last = next((line for line in reversed(said.splitlines()) if line and not line.startswith("+ ")), "")
    found = meaning(registry.host, last)
    if found is None:
        return BuildError(f"{image.name} was not pushed: {error.message}", hint=error.hint)
    return BuildError(f"{image.name} was not pushed: {found[0]}\n  | {last}", hint=found[1])


def meaning(host: str, said: str) -> tuple[str, str] | None:
    """What a registry did, and what to do about it, from skopeo's last line; None for a line that fits no pattern."""
    for pattern, what, hint in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return what.format(host=host), hint.format(host=host)
    return None
