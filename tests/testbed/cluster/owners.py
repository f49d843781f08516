"""Who owns the underlay on a host: systemd-networkd or NetworkManager, with an address of its own or by DHCP.

A change of the address ends the connection that asks for it, so each is a unit of its own on the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

from tests.testbed.cluster.machine import Machine
from tests.testbed.polling import eventually

_DNSMASQ = "dhcp-of-test"
_NETWORKD_FILE = "/run/systemd/network/10-underlay.network"
_NM_FILE = "/etc/NetworkManager/system-connections/underlay.nmconnection"


def in_background(machine: Machine, script: str) -> None:
    """Run a shell script on a host as a unit, and do not wait for it."""
    machine.run("systemd-run", "--quiet", "--collect", "--no-block", "sh", "-c", script)


class Owner(ABC):
    """The service that configures a host's underlay; `device` is the interface's name, `gateway` the router."""

    service: str

    def __init__(self, device: str, underlay: IPv4Network) -> None:
        """Values only."""
        self.device = device
        self.underlay = underlay

    def give_address(self, machine: Machine, address: IPv4Address) -> None:
        """Let the owner give the interface this address, in place of what it has."""
        self._configure(machine, address)

    def use_dhcp(self, machine: Machine) -> None:
        """Let the owner ask a DHCP server for the address."""
        self._configure(machine, None)

    @abstractmethod
    def take_over(self, machine: Machine, address: IPv4Address) -> None:
        """Become the owner, with this address, which the interface has."""

    @abstractmethod
    def reload(self, machine: Machine) -> None:
        """Let the owner read its configuration again."""

    @abstractmethod
    def renew(self, machine: Machine) -> None:
        """Let the owner ask the DHCP server anew, in the background."""

    @abstractmethod
    def unmanaged(self, machine: Machine, device: str) -> bool:
        """Whether the owner says that it leaves a device alone."""

    @abstractmethod
    def _configure(self, machine: Machine, address: IPv4Address | None) -> None: ...


class Networkd(Owner):
    """systemd-networkd."""

    service = "systemd-networkd"

    def take_over(self, machine: Machine, address: IPv4Address) -> None:
        """See Owner."""
        machine.shell("systemctl disable --now NetworkManager; systemctl unmask --runtime systemd-networkd")
        self._write(machine, address)
        machine.shell("systemctl start systemd-networkd && networkctl reload")

    def reload(self, machine: Machine) -> None:
        """See Owner."""
        machine.shell(f"networkctl reload && networkctl reconfigure {self.device}")

    def renew(self, machine: Machine) -> None:
        """See Owner. A request for a lease that the server no longer gives is refused; it asks for another then."""
        in_background(machine, f"networkctl reconfigure {self.device}")

    def unmanaged(self, machine: Machine, device: str) -> bool:
        """See Owner."""
        words = {
            line.split()[1]: line.split() for line in machine.run("networkctl", "--no-legend").splitlines() if line
        }
        return words[device][-1] == "unmanaged"

    def _configure(self, machine: Machine, address: IPv4Address | None) -> None:
        self._write(machine, address)
        in_background(machine, f"networkctl reload && networkctl reconfigure {self.device}")

    def _write(self, machine: Machine, address: IPv4Address | None) -> None:
        wanted = (
            "DHCP=ipv4"
            if address is None
            else f"Address={address}/{self.underlay.prefixlen}\nGateway={self.underlay[1]}"
        )
        text = (
            f"[Match]\nName={self.device}\n\n[Network]\n{wanted}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\n"
            "[DHCPv4]\nClientIdentifier=mac\n"
        )
        machine.shell(f"cat >{_NETWORKD_FILE} <<'END'\n{text}END\n")


class NetworkManager(Owner):
    """NetworkManager, with a connection of its own kind of file."""

    service = "NetworkManager"

    def take_over(self, machine: Machine, address: IPv4Address) -> None:
        """See Owner. What networkd gave stays until NetworkManager has the interface."""
        self._write(machine, address)
        machine.shell(
            "systemctl stop systemd-networkd.socket systemd-networkd.service;"
            " systemctl mask --runtime systemd-networkd && systemctl enable --now NetworkManager"
        )
        eventually("NetworkManager has the underlay", lambda: self._active(machine), timeout_s=machine.patience_s)

    def reload(self, machine: Machine) -> None:
        """See Owner."""
        machine.shell("nmcli general reload && nmcli connection reload && nmcli connection up underlay")

    def renew(self, machine: Machine) -> None:
        """See Owner."""
        in_background(machine, "nmcli connection up underlay")

    def unmanaged(self, machine: Machine, device: str) -> bool:
        """See Owner."""
        output = machine.run("nmcli", "--terse", "--fields", "GENERAL.STATE", "device", "show", device)
        return "(unmanaged)" in output

    def _active(self, machine: Machine) -> bool:
        found = machine.run("nmcli", "--terse", "--fields", "NAME,DEVICE,STATE", "connection", "show", "--active")
        return f"underlay:{self.device}:activated" in found.splitlines()

    def _configure(self, machine: Machine, address: IPv4Address | None) -> None:
        self._write(machine, address)
        in_background(machine, "nmcli connection reload && nmcli connection up underlay")

    def _write(self, machine: Machine, address: IPv4Address | None) -> None:
        wanted = (
            "method=auto\ndhcp-client-id=mac"
            if address is None
            else f"method=manual\naddress1={address}/{self.underlay.prefixlen},{self.underlay[1]}"
        )
        text = (
            f"[connection]\nid=underlay\nuuid=6f766c79-0000-4000-8000-000000000001\ntype=ethernet\n"
            f"interface-name={self.device}\n\n[ipv4]\n{wanted}\n\n[ipv6]\nmethod=disabled\n"
        )
        machine.shell(f"umask 077 && cat >{_NM_FILE} <<'END'\n{text}END\n")


@contextmanager
def dhcp_server(machine: Machine, owner: Owner, device: str, mac: str, address: IPv4Address) -> Iterator[None]:
    """A DHCP server on a host for the length of the block: it gives one address to one interface, and no other.

    `device` is the interface it listens on, `mac` the hardware address of the one that asks."""
    machine.run(
        *("systemd-run", "--quiet", "--collect", f"--unit={_DNSMASQ}"),
        *("dnsmasq", "--no-daemon", "--port=0", "--user=root", "--conf-file=/dev/null", "--leasefile-ro", "--log-dhcp"),
        *(f"--interface={device}", "--bind-interfaces", "--dhcp-authoritative"),
        f"--dhcp-range={owner.underlay.network_address},static,{owner.underlay.netmask},10m",
        *(f"--dhcp-host={mac},{address}", f"--dhcp-option=option:router,{owner.underlay[1]}"),
    )
    try:
        yield
    finally:
        machine.run("systemctl", "stop", _DNSMASQ)
