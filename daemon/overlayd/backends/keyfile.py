"""The host's WireGuard key on disk: made once, and the same after every restart and reboot. Never shown."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from overlayd.errors import ConfigError, OverlaydError
from overlayd.kernel.wireguard.device import KEY_BYTES, format_key, parse_key
from overlayd.lib.files import write_atomically
from overlayd.lib.log import logger

log = logger("wireguard")

FILE = "wireguard.key"
MODE = 0o600


def private_key(state_dir: Path) -> str:
    """The key in base64, as `wg genkey` prints one; made if there is none.

    A file that others could read is closed to them, with a warning. Raises ConfigError for a file that is somebody
    else's or no key: a person decides whether this host gets a new one; OverlaydError where the disk refuses.
    """
    path = state_dir / FILE
    try:
        _close_to_others(path)
        text = path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return _make(path)
    except OSError as error:
        raise OverlaydError(f"{path}: the WireGuard key cannot be read: {error}") from error
    key = parse_key(text)
    if key is None:
        raise ConfigError(
            f"{path} does not hold a WireGuard key of {KEY_BYTES} bytes in base64",
            hint=f"put the key back, or remove the file: a new key is made, and the peers learn of it (rm {path})",
        )
    return _as_devices_show(key)


def renew(state_dir: Path, *, of: str) -> None:
    """Make a new key, as the host at `of` has the same one. Raises OverlaydError."""
    log.error(
        "another, older host has the same WireGuard key: was this host made from its image? This host gets a new key",
        holder=of,
        file=state_dir / FILE,
    )
    _make(state_dir / FILE)


def _make(path: Path) -> str:
    text = _as_devices_show(secrets.token_bytes(KEY_BYTES))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, f"{text}\n", mode=MODE)
    except OSError as error:
        raise OverlaydError(f"{path}: the WireGuard key cannot be written: {error}") from error
    log.info("WireGuard key made", file=path)
    return text


def _as_devices_show(key: bytes) -> str:
    """Any 32 bytes are a key, and of some bits WireGuard makes what X25519 needs (RFC 7748, section 5: clamped)."""
    clamped = bytearray(key)
    clamped[0] &= 248
    clamped[31] = (clamped[31] & 127) | 64
    return format_key(bytes(clamped))


def _close_to_others(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid():
        # The key is not used: that user knows it. And the unit may not chown(2).
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}, who knows the key", hint=f"chown root {path}, or remove it"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        log.warning(
            "other users could read the WireGuard key, and no longer can. If somebody did, remove the file and restart",
            file=path,
            mode=f"{stat.S_IMODE(found.st_mode):04o}",
        )
        path.chmod(MODE)
