"""Public keys of package repositories, read by gpg: the expected ones are taken out of a file, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images.bases import mirror_probe
from images.bases.base import Repository
from images.engine import process, sandbox
from images.engine.errors import BuildCommandFailed, BuildError
from images.signing import UNUSABLE


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A primary key in a file: fingerprint in upper case, gpg's letter for its validity, what it can be used for."""

    fingerprint: str
    validity: str
    capabilities: str

    @property
    def unusable(self) -> str | None:
        """Why no package can be checked with it; None when one can."""
        return UNUSABLE.get(self.validity) or (None if "S" in self.capabilities else "cannot sign")


def fetch(repository: Repository) -> bytes:
    """Fetch the public key of a repository, armoured. Raises BuildError when it cannot be read or is another key."""
    try:
        content = mirror_probe.read(repository.key_url, mirror_probe.TIMEOUT_S)
    except BuildError as error:
        raise BuildError(
            f"the key of {repository.title} did not come: {error.message}",
            hint=f"a copy of it can be named in images/mirrors.toml: {repository.name} = {{key = …}}",
        ) from error
    return trusted(content, {repository.key_fingerprint}, f"{repository.key_url}, the key of {repository.title},")


def trusted(content: bytes, expected: Collection[str], where: str) -> bytes:
    """The expected keys out of a key file, exported anew, so that nothing else in the file is passed on.

    The file must hold the keys with the fingerprints `expected`, all of them usable today, and no other. Raises
    BuildError that names the keys; `where` says in words what the file is.
    """
    with _home() as home:
        file = home / "file"
        file.write_bytes(content)
        found = _listed(home, file, where)
        there = {key.fingerprint for key in found}
        if unknown := sorted(there - set(expected)):
            raise BuildError(
                f"{where} holds the key {', '.join(unknown)}; expected is {', '.join(sorted(expected))}, and no other",
                hint="compare both with what the distribution publishes; nothing was installed",
            )
        if missing := sorted(set(expected) - there):
            raise BuildError(f"{where} does not hold the key {', '.join(missing)}")
        for key in found:
            if key.unusable:
                raise BuildError(f"{where}: the key {key.fingerprint} {key.unusable}")
        return exported(home, file, expected)


def picked(keyring: Path, expected: Collection[str]) -> bytes:
    """The expected keys out of a keyring that may hold others. Raises BuildError that names those it lacks."""
    with _home() as home:
        there = {key.fingerprint: key for key in _listed(home, keyring, str(keyring))}
        if missing := sorted(set(expected) - there.keys()):
            raise BuildError(
                f"{keyring} does not hold the key {', '.join(missing)}",
                hint="its package on this machine is older than the release, or another's file",
            )
        # A key that has expired is left out: a release is signed with several, and one is enough.
        usable = [name for name in expected if there[name].unusable is None]
        if not usable:
            raise BuildError(f"{keyring}: every key expected there {there[sorted(expected)[0]].unusable}")
        return exported(home, keyring, usable)


def exported(home: Path, file: Path, fingerprints: Collection[str]) -> bytes:
    """These keys of a file, imported into a keyring of gpg and exported: armoured, without signatures of others."""
    _gpg(home, "--import", file)
    return _gpg(home, "--armor", "--export-options", "export-minimal", "--export", *sorted(fingerprints)).encode(
        "ascii"
    )


def _listed(home: Path, file: Path, where: str) -> list[PublicKey]:
    """The primary keys of a file (GnuPG's doc/DETAILS: the record `pub`, then its `fpr`)."""
    try:
        listed = _gpg(home, "--with-colons", "--show-keys", file)
    except BuildCommandFailed as error:
        why = next((line for line in str(error).splitlines() if line.startswith("gpg:")), "")
        raise BuildError(f"{where} holds no OpenPGP public key ({why.removeprefix('gpg: ')})") from error
    found: list[PublicKey] = []
    primary: list[str] | None = None
    for fields in (line.split(":") for line in listed.splitlines()):
        if fields[0] in ("sec", "ssb"):
            raise BuildError(f"{where} holds a secret key: only its owner may have it")
        if fields[0] == "pub":
            primary = fields
        elif fields[0] == "fpr" and primary is not None:
            found.append(PublicKey(fingerprint=fields[9], validity=primary[1], capabilities=primary[11]))
            primary = None
    if not found:
        raise BuildError(f"{where} holds no OpenPGP public key")
    return found


def _gpg(home: Path, *words: str | Path) -> str:
    # Public keys need no agent, so none is started.
    return process.capture(["gpg", "--homedir", home, "--batch", "--quiet", "--no-autostart", *words])


@contextmanager
def _home() -> Iterator[Path]:
    sandbox.require("gpg")
    with tempfile.TemporaryDirectory(prefix="overlayd-keys-") as folder:
        # This makes a trust database: without one gpg 2.2 fails on keys that have expired or are revoked.
        _gpg(Path(folder), "--list-keys")
        yield Path(folder)
