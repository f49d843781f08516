"""What a backend receives from the underlay, for the firewall rules that accept it. Pure."""

from __future__ import annotations

from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Listening:
    """One kind of packets from peers that this host has to accept.

    They come over IP `version` 4 or 6. `protocol` is `udp` with a `port`, or another IP protocol by its number (IANA,
    protocol-numbers) without one. `anyone`: packets are accepted from any address, as the backend
    itself recognizes peers by their keys, and a peer may come from another address than the one it published.
    """

    version: int
    protocol: str
    port: int | None = None
    anyone: bool = False

    def __str__(self) -> str:
        """For people: `udp port 8472 over IPv4 from peers`."""
        what = f"{self.protocol} port {self.port}" if self.port is not None else f"IP protocol {self.protocol}"
        return f"{what} over IPv{self.version} from {'anybody' if self.anyone else 'peers'}"
