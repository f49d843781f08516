"""The daemon's state as a value: the status file, the checks and the metrics are made from it. Pure."""

from __future__ import annotations

from overlayd.lib.quick_dataclass import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One other host: the subnets that it holds and its addresses, in IPv4 and IPv6.

    `backend` is what its lease says; `path` says in a word how packets reach it from here, None where they do not.
    `problem` is None where this host's kernel is programmed for it.
    """

    subnet: str | None
    public_ip: str | None
    subnet6: str | None = None
    public_ip6: str | None = None
    backend: str
    path: str | None = None
    problem: str | None = None

    @property
    def subnets(self) -> str:
        """The subnets that it holds, of both families."""
        return joined(self.subnet, self.subnet6)

    @property
    def addresses(self) -> str:
        """Its addresses, of both families."""
        return joined(self.public_ip, self.public_ip6)


# What is known of the way to a peer's containers: one of them answered; the peer's bridge reports that no container is
# there; its host answers, and no container is known; no container answers, though one should; its host does not answer
# by the underlay either, and etcd has no sign of life of it; no echo was sent yet.
REACHED, NO_CONTAINER, HOST_ONLY, FAILING, HOST_SILENT, NOT_ASKED = REACH_STATES = (
    "reached",
    "no container",
    "host only",
    "failing",
    "host silent",
    "not asked yet",
)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What a status shows of one peer and family. Times are seconds since the epoch; `rtt_ms` is the last echo's.

    `container` is one of the peer's, where one is known. `reached_at_s`: when one last answered. `failing_since_s`,
    `lost`: since when none does, and how many echoes went unanswered. `last_hop` is the farthest router that answered.
    """

    subnet: str
    public_ip: str
    state: str = NOT_ASKED
    container: str | None = None
    answered_by: str | None = None
    rtt_ms: float | None = None
    reached_at_s: float | None = None
    failing_since_s: float | None = None
    lost: int = 0
    last_hop: str | None = None
    problem: str | None = None


def joined(*texts: str | None) -> str:
    """The texts that are not None or empty, with commas between."""
    return ", ".join(text for text in texts if text)


@dataclass(frozen=True, kw_only=True)
class Status:
    """The daemon's state as of the last change. `state` is one of the words below; `problem` says what it waits for.

    `starting`, `waiting` (for etcd, the network config or a free subnet), `ready`, `stopped`. While it is ready,
    `problem` is what is wrong with a network config that went bad under way. `lease_problem` is None while the lease
    is held; `problems` are of this host's own part of the data path; `warnings` say what is open to others though
    packets go, and do not count for readiness. No field holds a secret: every user may read them.
    """

    state: str
    pid: int
    version: str
    started_at_s: float | None = None
    """Seconds since the epoch."""
    pid_begun: int | None = None
    """When that process began, in clock ticks since boot: its number may be another process's by now."""
    watched_at: str | None = None
    """Where /readyz is served, as ADDRESS:PORT."""
    problem: str | None = None
    network_number: int = 0
    """Which of this host's networks it is."""
    network: str | None = None
    subnet: str | None = None
    subnet6: str | None = None
    reserved: bool = False
    lease_problem: str | None = None
    backend: str | None = None
    mtu_bytes: int | None = None
    ifname: str | None = None
    ifname_reason: str | None = None
    public_ip: str | None = None
    public_ip6: str | None = None
    etcd_endpoints: tuple[str, ...] = ()
    etcd_connected: bool = False
    etcd_problem: str | None = None
    etcd_revision: int = 0
    firewall: str | None = None
    forwarder: str | None = None
    """What the kernel does for several packets at once, where the daemon carries them (backend udp); its own names."""
    fast_path: str | None = None
    """`on`, or why packets between containers go the kernel's way."""
    fast_paths: tuple[str, ...] = ()
    """While it is on: the words in `path` of the peers that it is for."""
    docker_problems: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    peers_untold: int = 0
    """How many more peers are not served, which are too many to be listed in `peers`."""
    skipped: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    probed_from: str | None = None
    """From where echoes go to peers' containers; None where none are sent."""
    unreached: tuple[str, ...] = ()
    """A sentence for each peer whose containers do not answer: of very many, the first."""
    unreached_most: bool = False
    """Whether these are at least half of all peers that can be judged: then this host is not ready."""
    reach: tuple[Reach, ...] = ()
    """Each peer and family; in a file of its own, as status.json would be written again for each echo."""

    @property
    def subnets(self) -> str:
        """The subnets that this host holds, of both families; empty where it holds none."""
        return joined(self.subnet, self.subnet6)

    @property
    def addresses(self) -> str:
        """The addresses that peers know this host by, of both families."""
        return joined(self.public_ip, self.public_ip6)
