"""WireGuard, as flannel lays it out: every packet between hosts encrypted, every host known by its key.

For each peer: its key, where it is, and its subnets as the only addresses it may send from; one route for the whole
network to the device. Kernels without WireGuard are served by wireguard-go.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, ClassVar, Self

from overlayd.backends import keyfile
from overlayd.backends.claims import Claim, Claims, public_key_of
from overlayd.backends.environment import Environment
from overlayd.backends.facts import BackendFacts, Carrier, Key
from overlayd.backends.listening import Listening
from overlayd.backends.options import LAST_PORT, MTU, Options, largest_packet
from overlayd.backends.peers import Reason
from overlayd.backends.wire import Wire
from overlayd.backends.x25519 import public_key
from overlayd.errors import NetworkConfigError
from overlayd.kernel.converge import ConvergeReport, Plan, converge, require
from overlayd.kernel.state import Address, KernelObject, Route, WireguardLink, WireguardPeer
from overlayd.kernel.wireguard.device import KEY_BYTES, format_key, parse_key
from overlayd.leases.lease import FamilyLease, Lease
from overlayd.lib import marks
from overlayd.lib.addresses import IPAddress, IPNetwork, contains, interface
from overlayd.lib.sanitize import sanitized

# Outer IPv6 40 (an IPv4 header is shorter), UDP 8, type 4, receiver 4, counter 8, tag 16.
OVERHEAD_BYTES = 80
_SERVICES = {53: "DNS", 67: "DHCP", 68: "DHCP", 123: "NTP", 546: "DHCP", 547: "DHCP"}
# What flannel takes for private when it chooses an endpoint: RFC 1918 and RFC 4193, and not all that Python does.
_PRIVATE: tuple[IPNetwork, ...] = (
    *map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
    IPv6Network("fc00::/7"),
)


class Wireguard:
    """The wireguard backend on one host.

    `mode` says which addresses are the endpoints. `separate`: a device for each family, over the same one.
    The others have one device for both: `ipv4` and `ipv6` over that family, `auto` over the better of the two.
    """

    facts: ClassVar[BackendFacts] = BackendFacts(
        name="wireguard",
        published_as="wireguard",
        summary="WireGuard, encrypted: by the kernel, or by wireguard-go where the kernel has none. Each host's key is "
        "in wireguard.key of the state directory. The MTU of containers is the underlay's less 80 bytes, also where "
        "hosts meet over IPv4.",
        keys=(
            Key(name="ListenPort", help="UDP port.", default=51820, lowest=1, highest=LAST_PORT),
            Key(
                name="ListenPortV6",
                help="UDP port of the device for IPv6, where that is a device of its own.",
                default=51821,
                lowest=1,
                highest=LAST_PORT,
            ),
            Key(
                name="PSK",
                help="A preshared key beside the hosts' own, in base64 as `wg genpsk` prints it.",
                default=None,
                default_text="none",
                secret=True,
            ),
            MTU,
            Key(
                name="Mode",
                help="`separate`: a device for each family; `ipv4`, `ipv6`: one device for both, over that family; "
                "`auto`: one device, each peer over the family that both have.",
                default="separate",
                words=("separate", "auto", "ipv4", "ipv6"),
            ),
            Key(
                name="PersistentKeepaliveInterval",
                help="Seconds between packets that keep a way through address translation open; 0 for none.",
                default=0,
                lowest=0,
                highest=65535,
            ),
        ),
        ipv6=True,
        overhead_bytes={4: OVERHEAD_BYTES - 20, 6: OVERHEAD_BYTES},
        carrier=Carrier(protocol="udp", port_key="ListenPort"),
        device_kind="wireguard",
        host_answers=True,
        one_route=True,
        runs_commands=False,
        notified=False,
    )

    def __init__(
        self,
        environment: Environment,
        *,
        mode: str,
        ports: Mapping[str, int],
        preshared_key: str | None,
        keepalive_s: int,
        mtu_bytes: int,
    ) -> None:
        """Values only; the key is read, or made, at its first use."""
        self._environment = environment
        self._mode = mode
        self._ports = ports
        self._preshared_key = preshared_key
        self._keepalive_s = keepalive_s
        self._mtu_bytes = mtu_bytes
        # The endpoints that this daemon set, by device and key. Where the device shows another one, the peer has moved.
        self._set_endpoints: dict[object, tuple[IPAddress, int] | None] = {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], environment: Environment) -> Self:
        """See Backend. Keys: those of `facts`, as flannel has them."""
        options = Options(cls.facts, config)
        mode = options.word("Mode")
        for version in (4, 6):
            if mode == f"ipv{version}" and environment.network.network(version) is None:
                raise NetworkConfigError(
                    f"Mode of backend wireguard is {mode}, and hosts of this network publish no IPv{version} address",
                    hint=f"set EnableIPv{version} to true, or Mode to auto",
                )
        ports = {
            _device(4): _port(options, "ListenPort"),
            _device(6): _port(options, "ListenPortV6"),
        }
        if mode == "separate" and len(environment.network.pools) == 2 and len(set(ports.values())) == 1:
            raise NetworkConfigError(
                f"ListenPort and ListenPortV6 of backend wireguard are both {ports[_device(4)]}",
                hint="set two ports, as each family has a device of its own; or Mode auto, with one device",
            )
        return cls(
            environment,
            mode=mode,
            ports=ports,
            preshared_key=_preshared_key(options),
            keepalive_s=options.number("PersistentKeepaliveInterval"),
            mtu_bytes=largest_packet(
                cls.facts,
                options.number("MTU") or environment.underlay.mtu_bytes,
                OVERHEAD_BYTES,
                ipv6=environment.network.v6 is not None,
            ),
        )

    @property
    def mtu_bytes(self) -> int:
        """The underlay's MTU less 80, whichever family the packets travel over."""
        return self._mtu_bytes

    @property
    def devices(self) -> tuple[str, ...]:
        """The WireGuard devices."""
        return tuple(dict.fromkeys(self._device(pool.network.version) for pool in self._environment.network.pools))

    @property
    def listens(self) -> tuple[Listening, ...]:
        """The UDP ports, in the families of the endpoints."""
        versions: list[int] = [pool.network.version for pool in self._environment.network.pools]
        if self._mode in ("ipv4", "ipv6"):
            versions = [int(self._mode[-1])]
        return tuple(
            Listening(version=version, protocol="udp", port=self._ports[self._device(version)], anyone=True)
            for version in versions
        )

    def lease_data(self, version: int) -> Mapping[str, Any]:
        """This host's public key, the same for both families, and its UDP port, as flannel has them since 0.26.6.

        Raises ConfigError, OverlaydError: see keyfile.
        """
        return {"PublicKey": self._public_key, "Port": self._ports[self._device(version)]}

    def replace_shared_key(self, others: Collection[Lease]) -> None:
        """See Keyed."""
        for other in others:
            if self._public_key in map(public_key_of, other.family_leases):
                keyfile.renew(self._state_dir, of=str(other.public_ip))
                # Both are cached properties: the next access reads the new key.
                del self._private_key, self._public_key
                return

    def wire(self, version: int) -> Wire | None:  # noqa: ARG002
        """None: see Backend."""
        return None

    def open(self, own: Lease) -> None:
        """See Backend."""
        require(self.plan(own))

    def apply(self, own: Lease, peers: Collection[Lease]) -> ConvergeReport:
        """See Backend."""
        plan = self.plan(own, peers)
        report = converge(plan)
        self._set_endpoints = {
            item.key: item.endpoint
            for name, objects in plan.peers.items()
            for item in objects
            if isinstance(item, WireguardPeer) and name not in report.peer_problems
        }
        return report

    def run(self, stop: threading.Event) -> None:
        """Nothing to do: the kernel or wireguard-go carries the packets."""

    def close(self) -> None:
        """Nothing to release."""

    def plan(self, own: Lease, peers: Collection[Lease] = ()) -> Plan:
        """All that the kernel should hold, for these leases."""
        claims = Claims(self._public_key)

        def unclaimed(peer: Lease) -> Reason | None:
            claimed = self._claims(peer)
            problem = claimed if isinstance(claimed, str) else claims.add(peer, claimed)
            return None if problem is None else ("{}", (problem,))

        selected = self._environment.select_peers(
            peers, own=own, backend_type=self.facts.name, one_route=self.facts.one_route, usable=unclaimed
        )
        reachable: dict[str, tuple[KernelObject, ...]] = {
            name: tuple(map(self._peer, granted)) for name, granted in claims.granted().items()
        }
        return self._environment.plan(
            selected,
            base=(*self._environment.base(own), *self._own_end(own)),
            peers=reachable,
            paths=dict.fromkeys(reachable, self.facts.name),
        )

    @property
    def _state_dir(self) -> Path:
        if self._environment.state_dir is None:
            raise RuntimeError("a key is for the daemon only")
        return self._environment.state_dir

    @cached_property
    def _private_key(self) -> str:
        return keyfile.private_key(self._state_dir)

    @cached_property
    def _public_key(self) -> str:
        return format_key(public_key(parse_key(self._private_key) or b""))

    def _device(self, version: int) -> str:
        """The device that carries the packets of a family."""
        return _device(6 if version == 6 and self._mode == "separate" else 4)

    def _own_end(self, own: Lease) -> tuple[KernelObject, ...]:
        links = [
            WireguardLink(
                name=device,
                private_key=self._private_key,
                listen_port=self._ports[device],
                mtu_bytes=self._mtu_bytes,
            )
            for device in self.devices
        ]
        objects: list[KernelObject] = [*links]
        for family_lease in own.family_leases:
            device = self._device(family_lease.version)
            # The host's own packets to the overlay have this source address; peers accept what is from the subnet.
            address = interface(family_lease.subnet.network_address, family_lease.subnet.max_prefixlen)
            objects.append(Address(link=device, address=address))
        for pool in self._environment.network.pools:
            objects.append(Route(dst=pool.network, link=self._device(pool.network.version)))
        return tuple(objects)

    def _claims(self, peer: Lease) -> list[Claim] | str:
        """What a peer's lease claims on our devices; a sentence where it cannot be used."""
        family_leases = self._environment.shared_family_leases(peer)
        keys = [public_key_of(family_lease) for family_lease in family_leases]
        for family_lease, key in zip(family_leases, keys, strict=True):
            if key is None:
                return f"it published no usable PublicKey: {sanitized(family_lease.fields().get('publickey'))}"
        if self._mode == "separate":
            return [
                Claim(
                    device=self._device(family_lease.version),
                    public_key=str(key),
                    address=family_lease.public_ip,
                    port=self._port_of(family_lease),
                    subnets=(family_lease.subnet,),
                )
                for family_lease, key in zip(family_leases, keys, strict=True)
            ]
        if len(set(keys)) != 1:
            return "its two families have different PublicKeys; that needs Mode separate"
        endpoint = self._endpoint_lease(family_leases)
        if endpoint is None:
            return f"it has no IPv{self._mode[-1]} address, which Mode {self._mode} needs"
        subnets = tuple(family_lease.subnet for family_lease in family_leases)
        port, key = self._port_of(endpoint), str(keys[0])
        return [Claim(device=_device(4), public_key=key, address=endpoint.public_ip, port=port, subnets=subnets)]

    def _port_of(self, family_lease: FamilyLease) -> int:
        """The port of a peer's endpoint: the one that it published, else our own."""
        device = self._device(family_lease.version)
        port = family_lease.fields().get("port")
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port <= 65535:
            return self._ports[device]
        # flannel publishes ListenPortV6 with the IPv6 part also where its one device listens on ListenPort.
        return self._ports[device] if family_lease.version == 6 and port == self._ports[_device(6)] else port

    def _endpoint_lease(self, family_leases: Collection[FamilyLease]) -> FamilyLease | None:
        """The family whose public address is a peer's endpoint, where one device carries both families."""
        by_version = {family_lease.version: family_lease for family_lease in family_leases}
        if self._mode != "auto":
            return by_version.get(int(self._mode[-1]))
        v4, v6 = by_version.get(4), by_version.get(6)
        if v4 is None or v6 is None:
            return v4 or v6
        # As flannel does: IPv4 wherever the peer has a public address, else IPv6 between public addresses.
        ours6 = self._environment.endpoint(6).address
        if _is_private(v4.public_ip) and not _is_private(v6.public_ip) and not _is_private(ours6):
            return v6
        return v4

    def _peer(self, claim: Claim) -> WireguardPeer:
        endpoint = (claim.address, claim.port)
        return WireguardPeer(
            link=claim.device,
            public_key=claim.public_key,
            endpoint=endpoint,
            allowed_ips=frozenset(claim.subnets),
            preshared_key=self._preshared_key,
            keepalive_s=self._keepalive_s,
            roams=self._set_endpoints.get((claim.device, claim.public_key)) == endpoint,
        )


def _device(version: int) -> str:
    return marks.ours().device("-wg" if version == 4 else "-wg-v6")


def _port(options: Options, key: str) -> int:
    """A port of the config. Low ones are allowed, as some firewalls pass no others; ports that hosts use are not."""
    port = options.number(key)
    if port in _SERVICES:
        raise NetworkConfigError(
            f"{key} of backend wireguard is {port}, the port of {_SERVICES[port]}", hint="choose another port"
        )
    return port


def _preshared_key(options: Options) -> str | None:
    text = options.secret("PSK")
    key = parse_key(text)
    if text is not None and key is None:
        raise NetworkConfigError("PSK of backend wireguard is not a key", hint="`wg genpsk` prints one")
    # All zeros stand for none.
    return format_key(key) if key is not None and key != bytes(KEY_BYTES) else None


def _is_private(address: IPAddress) -> bool:
    return any(contains(network, address) for network in _PRIVATE)


BACKEND = Wireguard
