"""The daemon's state as a value, from which the status file, the checks and the metrics are made. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One other host: what it holds and where it is, in IPv4 and IPv6.

    `backend` is what its lease says; `path` says in a word how packets reach it from here, None where they do not.
    `problem` is None where they do as far as this kernel goes.
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
        """What it holds, of both families."""
        return joined(self.subnet, self.subnet6)

    @property
    def addresses(self) -> str:
        """Where it is, in both families."""
        return joined(self.public_ip, self.public_ip6)


# What is known of the way to a peer's containers: one of them answered; the peer's bridge says that nobody is there;
# its host answers, and of containers nothing is known; nobody does though somebody should; its host does not even by
# the underlay, and does not live as far as etcd says.
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
    `lost`: since when none does, and how many echoes went unanswered. `last_hop` is who answered farthest on the way.
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
    """Those that are there, with commas between."""
    return ", ".join(text for text in texts if text)


@dataclass(frozen=True, kw_only=True)
class Status:
    """The daemon's state as of the last change. `state` is one of the words below; `problem` says what it waits for.

    `starting`, `waiting` (for etcd, the network config or a free subnet), `ready`, `stopped`. While it is ready,
    `problem` is what is wrong with a network config that went bad under way. `lease_problem` is None while the lease
    is held; `problems` are of this host's own part of the data path; `warnings` say what is open to others though
    packets go, and do not count for readiness. No field holds a secret: everybody may read them.
    """

    state: str
    pid: int
    version: str
    started_at_s: float | None = None
    """Seconds since the epoch."""
    pid_begun: int | None = None
    """When that process began, in clock ticks since boot: a number may have become another process's."""
    watched_at: str | None = None
    """Where /readyz is served, as ADDRESS:PORT."""
    problem: str | None = None
    network_number: int = 0
    """Which of the networks of this host it is."""
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
    docker_problems: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    peers_untold: int = 0
    """How many more hold a lease that is not served: of very many bad ones, the first are told."""
    skipped: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    probed_from: str | None = None
    """From where containers of peers are asked; None where nobody asks."""
    unreached: tuple[str, ...] = ()
    """Which peers' containers do not answer, in sentences: of very many, the first."""
    unreached_most: bool = False
    """Whether these are at least half of all that can be judged: then this host is not ready."""
    reach: tuple[Reach, ...] = ()
    """Each peer by family; not in status.json, which would be written again for each echo."""

    @property
    def subnets(self) -> str:
        """What this host holds, of both families; empty where it holds nothing."""
        return joined(self.subnet, self.subnet6)

    @property
    def addresses(self) -> str:
        """Where this host is for its peers, in both families."""
        return joined(self.public_ip, self.public_ip6)
