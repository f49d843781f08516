"""What each release of Docker writes for one container with one published port, to be replayed without a dockerd.

The rules are in docker_rules/, each file with where it is from. Port 80 of the container is published as 8080.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from pyroute2.ipset import IPSet

from tests.testbed.netns import namespaces

_FOLDER = Path(__file__).parent / "docker_rules"
IPSET = "docker-ext-bridges-v"


@dataclass(frozen=True, kw_only=True)
class ReplayedRelease:
    """A release of Docker. `ipv6`: it writes IPv6 rules on the default bridge, when that has IPv6.

    `closes`: it drops what comes to a container by the container's own address; before 28.0 only the policy of FORWARD
    does. `subnet_drop`: that drop is for the whole of docker0's subnet (moby#52224).
    """

    name: str
    file: str
    ipv6: bool = True
    closes: bool = True
    subnet_drop: bool = False

    @property
    def nftables(self) -> bool:
        """Whether these are rules of Docker's nftables backend."""
        return self.file.endswith(".nft")


RELEASES = [
    ReplayedRelease(name="20.10", file="20.10-27.iptables", ipv6=False, closes=False),
    ReplayedRelease(name="27", file="20.10-27.iptables", closes=False),
    ReplayedRelease(name="28.0.0", file="28.0.0.iptables"),
    ReplayedRelease(name="28.0.1", file="28.0.1.iptables"),
    ReplayedRelease(name="28.2", file="28.2.iptables"),
    ReplayedRelease(name="29", file="29.iptables"),
    ReplayedRelease(name="moby-52224", file="moby-52224.iptables"),
    ReplayedRelease(name="29-nftables", file="29.nft"),
    ReplayedRelease(name="moby-52224-nftables", file="29.nft", subnet_drop=True),
]


def load(
    release: ReplayedRelease,
    namespace: str,
    subnet: IPv4Network | IPv6Network,
    container: IPv4Address | IPv6Address,
    *,
    options: dict[str, str],
) -> None:
    """Write the release's rules in a namespace, as if dockerd had been started there with `options`.

    By the `iptables` or `ip6tables` that PATH finds; Docker's jumps come before everything, as dockerd puts them.
    """
    version = subnet.version
    text = (_FOLDER / release.file).read_text()
    family = "ip" if version == 4 else "ip6"
    drop = f'{family} daddr {container} iifname != "docker0" counter drop comment "DROP DIRECT ACCESS"'
    if release.subnet_drop:
        drop = f'{family} daddr {subnet} iifname != {{ "docker0", "lo" }} counter drop comment "SUBNET DROP EXTERNAL"'
    value, _, mask = options.get("bridge-accept-fwmark", "").partition("/")
    mark = f'meta mark and {int(mask, 0)} == {int(value, 0)} counter accept comment "ALLOW FW MARK"' if mask else ""
    words = {
        "V": f"v{version}",
        "FAMILY": family,
        "SUBNET": str(subnet),
        "CONTAINER": str(container),
        "LOOPBACK": "127.0.0.0/8" if version == 4 else "::1",
        "TARGET": f"{container}:80" if version == 4 else f"[{container}]:80",
        "RAW": "" if options.get("allow-direct-routing") == "true" else drop,
        "MARK": mark,
    }
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    if release.nftables:
        namespaces.run(namespace, ["nft", "-f", "-"], input=text)
        return
    if IPSET in text:
        namespaces.inside(namespace, lambda: _make_ipset(subnet))
    command = "iptables-restore" if version == 4 else "ip6tables-restore"
    namespaces.run(namespace, [command, "--noflush"], input=text)


def _make_ipset(subnet: IPv4Network | IPv6Network) -> None:
    """The set of the subnets of all bridges that 28.0.0 matches, if it is not there yet."""
    name = f"{IPSET}{subnet.version}"
    with IPSet() as sets:
        family = {4: 2, 6: 10}[subnet.version]  # AF_INET, AF_INET6
        sets.create(name, stype="hash:net", family=family, exclusive=False)
        sets.add(name, str(subnet), family=family, etype="net", exclusive=False)
