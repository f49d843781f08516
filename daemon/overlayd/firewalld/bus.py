"""firewalld on the system's D-Bus: calls and their answers, in this process. A firewall-cmd takes 0.3 s, this 1 ms."""

from __future__ import annotations

from typing import Any

from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from overlayd.errors import FirewalldRefused

NAME = "org.fedoraproject.FirewallD1"
_PATH = "/org/fedoraproject/FirewallD1"
_BUS = DBusAddress("/org/freedesktop/DBus", bus_name="org.freedesktop.DBus", interface="org.freedesktop.DBus")
# It answers one call after another: behind a reload, that is when the reload is over.
TIMEOUT_S = 10.0


class Bus:
    """A connection to the system's bus, opened when it is needed. For one thread."""

    def __init__(self) -> None:
        self._connection: DBusConnection | None = None

    def firewalld_runs(self) -> bool:
        """Whether firewalld has its name on the bus. It is not started by the question. Raises FirewalldRefused."""
        try:
            return bool(self._send(_BUS, "NameHasOwner", "s", (NAME,))[0])
        except OSError:
            # The bus was restarted since the last call, or there is none.
            self.close()
        try:
            return bool(self._send(_BUS, "NameHasOwner", "s", (NAME,))[0])
        except OSError:
            self.close()
            return False

    def call(self, interface: str, method: str, signature: str, *arguments: object) -> Any:
        """Call a method of one of firewalld's interfaces (`policy`, `ipset`); its one result, None if it has none.

        Raises FirewalldRefused, which has firewalld's own code, and no code where there was no answer in 10 s.
        """
        address = DBusAddress(_PATH, bus_name=NAME, interface=f"{NAME}.{interface}")
        try:
            body = self._send(address, method, signature, arguments)
        except OSError as error:
            self.close()
            raise FirewalldRefused(method, str(arguments[0]), f"the bus ended the connection: {error}") from error
        return body[0] if body else None

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
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
            said = f"no answer within {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else str(error)
            raise FirewalldRefused(method, str(arguments[0]), said) from error
        if reply.header.message_type is MessageType.error:
            said = str(reply.body[0]) if reply.body else reply.header.fields[HeaderFields.error_name]
            raise FirewalldRefused(method, str(arguments[0]), said)
        return reply.body
