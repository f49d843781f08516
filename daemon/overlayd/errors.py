"""Errors, one class for each thing that the caller does next.

OverlaydError            one message for the user, and an optional hint: the next thing to do
├─ ConfigError           exit 2: a person must change a setting
├─ UnsupportedError      exit 3: this host or kernel cannot do it; the daemon waits where the network config asks for it
├─ PrivilegeError        exit 4: run as root
├─ BusyError             exit 5: another overlayd holds this host
├─ StoreError            etcd or what it holds is not usable now: retry with backoff, data path untouched
│  ├─ StoreDenied        etcd's roles do not allow it: go on without it where that is possible
│  ├─ StoreFull          etcd takes no writes until somebody makes room: go on without it where that is possible
│  └─ NetworkConfigError the network config in etcd is missing or wrong: wait for a person to correct it
├─ SubnetsExhausted      every subnet is taken: wait for one to come free
├─ AddressTaken          another host publishes this host's address: wait until it stops
├─ LeaseLost             the subnet belongs to somebody else now: say so, take another
├─ KernelRefused         one operation on one object failed: report it, go on with the others
├─ FirewalldRefused      firewalld refused one call: report it, go on with the others
└─ CommandFailed         a child process failed: the message is a command to paste
"""

from __future__ import annotations

import os


class OverlaydError(Exception):
    """A failure that is shown to the user as one message.

    `message` says what failed and on which object; `hint` says what to do next.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(OverlaydError):
    """A setting is wrong; only a person can correct it."""

    exit_status = 2


class UnsupportedError(OverlaydError):
    """This host or its kernel lacks something that the configuration asks for."""

    exit_status = 3


class PrivilegeError(OverlaydError):
    """The command changes the host's network and was not run as root."""

    exit_status = 4


class BusyError(OverlaydError):
    """Another overlayd runs on this host."""

    exit_status = 5


class StoreError(OverlaydError):
    """etcd does not answer or refuses. Worth trying again; the data path stays as it is."""


class NetworkConfigError(StoreError):
    """The network config in etcd is missing or breaks a rule. A person may correct it while the daemon waits."""

    exit_status = 2


class StoreDenied(StoreError):
    """etcd's roles do not allow this user to do that."""


class StoreFull(StoreError):
    """etcd has the alarm NOSPACE: reads and keep-alives go on, nothing is written and no lease granted."""

    HINT = (
        "on an etcd server: make room (etcdctl compact REVISION, the newest one of `etcdctl endpoint status "
        "--write-out=json`; etcdctl defrag --cluster), or allow it more (--quota-backend-bytes); then "
        "etcdctl alarm disarm"
    )


class AddressTaken(OverlaydError):
    """Another host publishes the address that this one would publish."""


class SubnetsExhausted(OverlaydError):
    """No subnet is free between SubnetMin and SubnetMax."""


class LeaseLost(OverlaydError):
    """The subnet that this host used is leased to another host."""


class KernelRefused(OverlaydError):
    """The kernel refused one operation on one object.

    `operation` and `obj` are named as `ip` names them: `route replace`, `10.5.2.0/24 via 10.5.2.0`.
    """

    def __init__(self, operation: str, obj: str, errno: int, *, hint: str | None = None) -> None:
        super().__init__(f"{operation} {obj}: {os.strerror(errno)} (errno {errno})", hint=hint)
        self.operation = operation
        self.obj = obj
        self.errno = errno


class FirewalldRefused(OverlaydError):
    """firewalld refused one call about one of its objects, or did not answer.

    `refusal` is firewalld's message, which begins with its error code.
    """

    def __init__(self, method: str, obj: str, refusal: str) -> None:
        super().__init__(f"firewalld: {method} {obj}: {refusal}")
        self.obj = obj
        self.refusal = refusal

    def says(self, *words: str) -> bool:
        """Whether firewalld's message has one of these words."""
        return any(word in self.refusal for word in words)


class CommandFailed(OverlaydError):
    """A child process ended with a status other than 0."""


class CommandTimedOut(CommandFailed):
    """A child process was killed because it did not end in time."""
