"""Signs with a key that the user has: files, by detached signatures, and RPMs. And checks signatures.

A key is found in a GnuPG home by its fingerprint or user id. Passphrases are asked for by gpg-agent: none is ever on a
command line, in a variable or in a file of ours. An agent that was started for a signature is ended afterwards; one
that ran before goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.engine.errors import BuildCommandFailed, BuildError
from images.engine.files import written_whole
from images.engine.process import capture

VARIABLE = "OVERLAYD_SIGNING_KEY"
# Without /run/user the agent makes its sockets in the home, and a socket's path has at most 107 bytes (unix(7)).
_SOCKET_BYTES = 107 - len("/S.gpg-agent.browser")
# What gpg says of a key's validity in a listing with colons (GnuPG's doc/DETAILS), where it cannot be used.
UNUSABLE = {"e": "has expired", "r": "is revoked", "d": "is disabled", "i": "is invalid"}


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A secret key that can sign. `home` is the GnuPG home that holds it; None is the user's own."""

    fingerprint: str
    uid: str
    home: Path | None = None


def find(wanted: str | None, *, home: Path | None = None) -> SigningKey:
    """The secret key of a fingerprint or user id; without one, the only key of the home.

    Raises BuildError when there is no such key, when there are several, and when the key cannot sign or has expired.
    """
    with _session(home) as gpg:
        try:
            listed = gpg.run("--with-colons", "--list-secret-keys", *([wanted] if wanted else []))
        except BuildCommandFailed as error:
            raise BuildError(f"no secret key {wanted!r} in {_named(home)}", hint=_which(gpg)) from error
        found = _keys(listed)
        if len(found) != 1:
            problem = f"{len(found)} secret keys" if found else "no secret key"
            asked = f" match {wanted!r}" if wanted and found else ""
            raise BuildError(f"{problem}{asked} in {_named(home)}", hint=_which(gpg))
    [one] = found
    name = f"the key {one.fingerprint} ({one.uid})"
    if one.validity in UNUSABLE:
        raise BuildError(f"{name} {UNUSABLE[one.validity]}", hint="sign with another, or prolong it: gpg --edit-key")
    if "S" not in one.capabilities:
        raise BuildError(f"{name} cannot sign", hint="sign with another, or add a subkey that signs: gpg --edit-key")
    return SigningKey(fingerprint=one.fingerprint, uid=one.uid, home=home)


def generate(home: Path, uid: str) -> SigningKey:
    """A new RSA key of 3072 bits without a passphrase, in a new home: for repositories that only this machine uses.

    RSA, because the rpm of EL 7 knows no newer kind. `home` must not exist, and does not exist after an error.
    """
    half = home.with_name(f".{home.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True, mode=0o700)
    try:
        with _session(half) as gpg:
            gpg.run("--passphrase", "", "--quick-generate-key", uid, "rsa3072", "sign", "never")
        half.rename(home)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return find(None, home=home)


def export_public(key: SigningKey) -> bytes:
    """The public key, armoured."""
    with _session(key.home) as gpg:
        return gpg.run("--armor", "--export-options", "export-minimal", "--export", key.fingerprint).encode("ascii")


def sign_detached(key: SigningKey, *files: Path) -> list[Path]:
    """Sign each file; the paths of the signatures, which are armoured and named NAME.asc. Older ones are replaced."""
    made = []
    with _session(key.home) as gpg:
        for file in files:
            final = file.with_name(f"{file.name}.asc")
            with written_whole(final) as half:
                gpg.run("--local-user", key.fingerprint, "--armor", "--output", half, "--detach-sign", file)
            made.append(final)
    return made


def prove(key: SigningKey) -> None:
    """Sign a file of no meaning, so that a passphrase is asked for, or a key fails, before long work is begun.

    Raises BuildError.
    """
    with tempfile.TemporaryDirectory(prefix="overlayd-sign-") as place:
        file = Path(place) / "trial"
        file.write_bytes(b"trial\n")
        try:
            sign_detached(key, file)
        except BuildCommandFailed as error:
            raise BuildError(
                f"the key {key.fingerprint} ({key.uid}) does not sign: {error.message}",
                hint="gpg-agent asks for a passphrase on a terminal; without one, give it to the agent beforehand",
            ) from error


def sign_rpms(key: SigningKey, rpms: Sequence[Path]) -> None:
    """Put the key's signature into RPMs, in place of any that they have."""
    with _session(key.home) as gpg:
        macros = {
            "_gpg_name": key.fingerprint,
            "__gpg": shutil.which("gpg") or "gpg",
            "_gpg_digest_algo": "sha256",
            **({"_gpg_path": str(gpg.home)} if gpg.home else {}),
        }
        defines = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
        capture(["rpmsign", *defines, "--addsign", *rpms], env=gpg.variables, base_env=os.environ)


def verify(file: Path, signature: Path, public: bytes) -> None:
    """Check that a detached signature of a file was made by this key, an armoured public one. Raises BuildError."""
    with tempfile.TemporaryDirectory(prefix="overlayd-verify-") as place:
        folder = Path(place)
        (folder / "key.asc").write_bytes(public)
        capture(
            ["gpg", "--homedir", folder, "--batch", "--output", folder / "key.gpg", "--dearmor", folder / "key.asc"]
        )
        try:
            capture(["gpgv", "--homedir", folder, "--keyring", folder / "key.gpg", signature, file])
        except BuildCommandFailed as error:
            raise BuildError(
                f"{file} and its signature {signature.name} do not match, by this key:\n{error}"
            ) from error


@contextlib.contextmanager
def agent(key: SigningKey) -> Iterator[None]:
    """Keep one agent for all signatures that are made in the block, so that a passphrase is asked for once."""
    with _session(key.home) as gpg:
        capture(["gpgconf", "--launch", "gpg-agent"], env=gpg.variables, base_env=os.environ)
        yield


@dataclass(frozen=True)
class _Gpg:
    home: Path | None
    variables: dict[str, str]

    def run(self, *words: str | Path) -> str:
        return capture(["gpg", "--batch", "--yes", "--quiet", *words], env=self.variables, base_env=os.environ)


@dataclass
class _Listed:
    validity: str
    capabilities: str
    fingerprint: str = ""
    uid: str = ""


@contextlib.contextmanager
def _session(home: Path | None) -> Iterator[_Gpg]:
    """gpg with this home. An agent that was started during the block is ended with it."""
    if shutil.which("gpg") is None:
        raise BuildError("gpg is not installed", hint="`make system` installs what is missing")
    if home is not None and not home.is_dir():
        raise BuildError(f"there is no GnuPG home {home}", hint="it is a folder, as ~/.gnupg is")
    # pinentry asks for a passphrase on this terminal.
    variables = {"GPG_TTY": os.ttyname(0)} if sys.stdin is not None and _is_terminal() else {}
    with contextlib.ExitStack() as stack:
        if home is not None:
            home = home.resolve()
            if len(os.fsencode(home)) > _SOCKET_BYTES:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpg-")))
                (folder / "h").symlink_to(home)
                home = folder / "h"
            variables["GNUPGHOME"] = str(home)
        if not _agent_runs(variables):
            stack.callback(_end_agent, variables)
        yield _Gpg(home, variables)


def _is_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _agent_runs(variables: dict[str, str]) -> bool:
    # Its exit status is 0 without an agent too; it prints OK only when an agent answered.
    done = subprocess.run(
        ["gpg-connect-agent", "--no-autostart", "GETINFO pid", "/bye"],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return "OK" in done.stdout.split()


def _end_agent(variables: dict[str, str]) -> None:
    subprocess.run(
        ["gpgconf", "--kill", "gpg-agent"],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def _keys(listed: str) -> list[_Listed]:
    """Secret keys of a listing with colons (GnuPG's doc/DETAILS): sec, then its fpr and first uid."""
    found: list[_Listed] = []
    for fields in (line.split(":") for line in listed.splitlines()):
        match fields[0]:
            case "sec":
                found.append(_Listed(validity=fields[1], capabilities=fields[11]))
            case "fpr" if found and not found[-1].fingerprint:
                found[-1].fingerprint = fields[9]
            case "uid" if found and not found[-1].uid:
                found[-1].uid = fields[9]
    return found


def _which(gpg: _Gpg) -> str:
    try:
        keys = _keys(gpg.run("--with-colons", "--list-secret-keys"))
    except BuildCommandFailed:
        keys = []
    if not keys:
        return "there is none: make one with gpg --quick-generate-key, or name another GnuPG home: --gnupg-home"
    return "there are:\n" + "\n".join(f"    {one.fingerprint}  {one.uid}" for one in keys)


def _named(home: Path | None) -> str:
    return str(home or os.environ.get("GNUPGHOME") or "~/.gnupg")
