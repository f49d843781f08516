"""How a host reaches etcd: the settings for it, and their checks before anything is dialled."""

from __future__ import annotations

import stat
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from overlayd.errors import ConfigError
from overlayd.lib.log import logger
from overlayd.lib.quick_dataclass import dataclass
from overlayd.store.endpoints import EtcdEndpoint, parse_endpoints
from overlayd.store.trust import system_bundle

if TYPE_CHECKING:
    from overlayd.settings import Settings

log = logger("store")

_FILES = ("cafile", "certfile", "keyfile", "password_file")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """How to reach etcd. Files are PEM but for `password_file`; the password never appears in a repr.

    With https and no `cafile`, etcd's certificate must be signed by one of the CAs that this system trusts.
    """

    endpoints: tuple[str, ...]
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> StoreSettings:
        """The part of a host's settings that says how to reach etcd."""
        return cls(
            endpoints=settings.etcd_endpoints,
            cafile=settings.etcd_cafile,
            certfile=settings.etcd_certfile,
            keyfile=settings.etcd_keyfile,
            username=settings.etcd_username,
            password=settings.etcd_password,
            password_file=settings.etcd_password_file,
        )


def check(settings: StoreSettings) -> tuple[EtcdEndpoint, ...]:
    """The endpoints. Raises ConfigError where settings contradict each other, or a file is not there."""
    endpoints = parse_endpoints(settings.endpoints)
    if settings.password and settings.password_file:
        raise ConfigError("etcd-password and etcd-password-file are both set", hint="set one of them")
    if bool(settings.username) != bool(settings.password or settings.password_file):
        raise ConfigError(
            "etcd-username and its password go together; only one is set",
            hint="set etcd-username and etcd-password-file, or neither",
        )
    if bool(settings.certfile) != bool(settings.keyfile):
        raise ConfigError("etcd-certfile and etcd-keyfile go together; only one is set")
    if not endpoints[0].tls and (settings.cafile or settings.certfile):
        name = "etcd-cafile" if settings.cafile else "etcd-certfile"
        raise ConfigError(
            f"{name} is set but {endpoints[0]} is not encrypted",
            hint=f"write etcd-endpoints with https://, or do not set {name}",
        )
    if endpoints[0].tls and not settings.cafile and system_bundle() is None:
        raise ConfigError(
            "etcd-endpoints use https:// but no CA is given and this system has no bundle of them",
            hint="set etcd-cafile",
        )
    for name in _FILES:
        path = getattr(settings, name)
        try:
            if path and not Path(path).is_file():
                raise ConfigError(f"etcd-{name.replace('_', '-')}: {path} is not a file")
        except PermissionError:
            raise ConfigError(
                f"etcd-{name.replace('_', '-')}: {path} is in a folder that is closed to this user or service",
                hint="/home and /root are closed to overlayd.service (ProtectHome=): put it into /etc/overlayd",
            ) from None
    for path, what in ((settings.password_file, "etcd's password"), (settings.keyfile, "this host's key for etcd")):
        if path and Path(path).stat().st_mode & stat.S_IROTH:
            log.warning(f"every user of this host can read {what}", file=path)
    return endpoints
