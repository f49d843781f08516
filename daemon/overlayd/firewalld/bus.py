"""Calls to firewalld on the system's D-Bus. A call takes 1 ms; one by the command firewall-cmd takes 0.3 s."""

from __future__ import annotations

from typing import Any

from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from overlayd.errors import FirewalldRefused

NAME = "org.fedoraproject.FirewallD1"
_PATH = "/org/fedoraproject/FirewallD1"
_BUS = DBusAddress("/org/freedesktop/DBus", bus_name="org.freedesktop.DBus", interface="org.freedesktop.DBus")
# firewalld answers one call after another, and a call during a reload waits for its end.
TIMEOUT_S = 10.0


class Bus:
    """A connection to the system's bus, opened by the first call. For one thread."""

    def __init__(self) -> None:
        self._connection: DBusConnection | None = None

    def firewalld_runs(self) -> bool:
        """Whether firewalld owns its name on the bus. The call does not start firewalld. Raises FirewalldRefused."""
        try:
            return bool(self._send(_BUS, "NameHasOwner", "s", (NAME,))[0])
        except OSError:
            # The bus was restarted since the last call, or does not run.
            self.close()
        try:
            return bool(self._send(_BUS, "NameHasOwner", "s", (NAME,))[0])
        except OSError:
            self.close()
            return False

    def call(self, interface: str, method: str, signature: str, *arguments: object) -> Any:
        """Call a method of one of firewalld's interfaces (`policy`, `ipset`). Returns its result, None without one.

        Raises FirewalldRefused, with firewalld's own error code, or without a code after 10 s without an answer.
        """
        address = DBusAddress(_PATH, bus_name=NAME, interface=f"{NAME}.{interface}")
        try:
            body = self._send(address, method, signature, arguments)
        except OSError as error:
            self.close()
            raise FirewalldRefused(method, str(arguments[0]), f"the bus ended the connection: {error}") from error
        return body[0] if body else None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, address: DBusAddress, method: str, signature: str, arguments: tuple[object, ...]) -> Any:
        try:
            if self._connection is None:
                self._connection = open_dbus_connection("SYSTEM")
            message = new_method_call(address, method, signature, arguments)
            message.header.flags = MessageFlag.no_auto_start
            reply = self._connection.send_and_get_reply(message, timeout=TIMEOUT_S)
        except (TimeoutError, AuthenticationError) as error:
            self.close()
            reason = f"no answer within {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else str(error)
            raise FirewalldRefused(method, str(arguments[0]), reason) from error
        if reply.header.message_type is MessageType.error:
            reason = str(reply.body[0]) if reply.body else reply.header.fields[HeaderFields.error_name]
            raise FirewalldRefused(method, str(arguments[0]), reason)
        return reply.body
