"""Pushing packed images to a registry with skopeo, by digest first and by tag when all are there.

skopeo finds the user's login itself (`skopeo login`, or docker's), and certificates below /etc/containers/certs.d.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from images.engine import process, sandbox
from images.engine.errors import BuildError, CommandFailed
from images.engine.process import Stop
from images.ship.compressed import CompressedImage

# A host with a dot, or a port, or localhost: what Docker does not take for a user name of Docker Hub.
_HOST = r"(?:localhost|(?=[^/]*[.:])[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(rf"(?P<host>{_HOST})(?P<prefix>(?:/{_PART})*)")
# What skopeo says, and what it means to whoever pushes. The first that fits counts.
_MEANINGS = (
    (
        r"server gave HTTP response to HTTPS client",
        "{host} speaks plain HTTP",
        "--no-tls-verify pushes to it all the same",
    ),
    (
        r"x509|certificate|tls:",
        "{host} shows a certificate that nobody here vouches for",
        "put its CA into /etc/containers/certs.d/{host}/ca.crt, or give --no-tls-verify",
    ),
    (
        r"unauthorized|authentication required",
        "{host} wants a login that it accepts",
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
class Registry:
    """Where to push: `host` with its port, and `prefix`, which is empty or begins with a slash."""

    host: str
    prefix: str = ""
    tls_verify: bool = True

    def by_digest(self, image: CompressedImage) -> str:
        """The name under which exactly this image can be pulled."""
        return f"{self.host}{self.prefix}/{image.repository}@{image.manifest.digest}"

    def by_tag(self, image: CompressedImage) -> str:
        return f"{self.host}{self.prefix}/{image.name}"


def parse(given: str, *, tls_verify: bool = True) -> Registry:
    """A registry out of HOST[:PORT][/prefix]. Raises BuildError for anything else."""
    found = _REGISTRY.fullmatch(given.rstrip("/"))
    if found is None:
        raise BuildError(
            f"--registry={given!r} names no registry",
            hint="allowed: HOST:PORT or HOST.DOMAIN, then /prefix in small letters; no http://, no tag",
        )
    return Registry(host=found["host"], prefix=found["prefix"], tls_verify=tls_verify)


def push(registry: Registry, images: Iterable[CompressedImage], stop: Stop, report: Callable[[str], None]) -> None:
    """Push images; `report` is given the name by digest of each. Tags are moved when all of them are there.

    Digests are kept: what is pulled by that name is what was packed. Blobs that the registry has are not sent again.
    Raises BuildError, saying what the registry did, and Cancelled.
    """
    sandbox.require("skopeo")
    images = list(images)
    for image in images:
        _copy(registry, image, registry.by_digest(image), stop)
        report(registry.by_digest(image))
    for image in images:
        _copy(registry, image, registry.by_tag(image), stop)


def _copy(registry: Registry, image: CompressedImage, to: str, stop: Stop) -> None:
    with tempfile.TemporaryFile("w+b") as log:
        try:
            process.run(
                [
                    # It is our own folder that is read: there is no signature to ask for.
                    *("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"),
                    f"--dest-tls-verify={'true' if registry.tls_verify else 'false'}",
                    f"oci:.:{image.name}",
                    f"docker://{to}",
                ],
                log=log,
                stop=stop,
                # Its way to name a layout cannot say a path with a colon in it.
                cwd=image.folder,
                # Logins are the user's.
                base_env=os.environ,
            )
        except CommandFailed as error:
            log.seek(0)
            raise _explained(registry, image, log.read().decode(errors="replace"), error) from error


def _explained(registry: Registry, image: CompressedImage, said: str, error: BuildError) -> BuildError:
    last = next((line for line in reversed(said.splitlines()) if line and not line.startswith("+ ")), "")
    found = meaning(registry.host, last)
    if found is None:
        return BuildError(f"{image.name} was not pushed: {error.message}", hint=error.hint)
    return BuildError(f"{image.name} was not pushed: {found[0]}\n  | {last}", hint=found[1])


def meaning(host: str, said: str) -> tuple[str, str] | None:
    """What a registry did, and what to do about it, by skopeo's last line; None for what is not known here."""
    for pattern, what, hint in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return what.format(host=host), hint.format(host=host)
    return None
