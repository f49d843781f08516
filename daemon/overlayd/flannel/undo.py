"""The commands that a person pastes to move a host from flannel to overlayd. Pure.

flanneld leaves its device, routes and rules behind when it stops. A second VXLAN device with the same number and port
cannot be made, so its own has to go before overlayd's comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from overlayd.lib.marks import Marks

# flannel's comments since 0.9, and its chains since 0.20; older ones wrote the rules in _bare, without comments.
_THEIRS = re.compile(r'--comment "flanneld (masq|forward)"|-j FLANNEL-')
_CHAIN = re.compile(r"^:(FLANNEL-\S+) ")


def steps(
    *,
    unit: str,
    required: bool,
    devices: Sequence[str],
    docker_files: Sequence[str],
    rules: Sequence[str],
    network: Marks,
) -> list[str]:
    """The commands in their order, with comments between them, for a host of that network."""
    lines = [
        f"overlayd check{network.flag}",
        f"systemctl disable {unit}",
        "systemctl daemon-reload",
        f"systemctl stop {unit}",
    ]
    if required:
        lines.insert(1, f"# docker.service requires {unit} until this; stopping that before would stop docker too")
    for path in docker_files:
        lines += _docker_file(path)
    if docker_files:
        lines.append("systemctl daemon-reload")
    # WireGuard's and udp's devices go with flanneld, the others stay.
    lines += [f"test ! -e /sys/class/net/{name} || ip link delete {name}" for name in devices]
    lines += rules
    return [*lines, f"systemctl enable --now {network.unit}", f"overlayd status{network.flag}"]


def _docker_file(path: str) -> Iterator[str]:
    if path.startswith(("/usr/lib/", "/lib/")) and path.endswith(".conf"):
        masked = f"/etc/systemd/system/docker.service.d/{path.rpartition('/')[2]}"
        yield f"mkdir -p {masked.rpartition('/')[0]} && ln -sf /dev/null {masked}"
    else:
        yield f"# edit {path}: take out what is flannel's, or a --bip; docker gets its options from overlayd.service"


def iptables(saved: str, *, network: str | None, command: str = "iptables") -> list[str]:
    """Commands that remove flannel's rules from what `iptables-save` printed.

    `network` tells the rules of old flannels, which have no comment.
    """
    bare = _bare(network) if network else ()
    found: list[str] = []
    table, chains = "filter", []
    for line in [*saved.splitlines(), "COMMIT"]:
        if line.startswith("*"):
            table = line[1:]
        elif match := _CHAIN.match(line):
            chains.append(match[1])
        elif line == "COMMIT":
            found += [f"{command} -t {table} {verb} {chain}" for chain in chains for verb in ("-F", "-X")]
            chains = []
        elif line.startswith("-A FLANNEL-"):
            continue
        elif _THEIRS.search(line) or (table == "nat" and line in bare):
            found.append(f"{command} -t {table} -D {line.removeprefix('-A ')}")
    return found


def _bare(network: str) -> tuple[str, ...]:
    return (
        f"-A POSTROUTING -s {network} -d {network} -j RETURN",
        f"-A POSTROUTING -s {network} ! -d 224.0.0.0/4 -j MASQUERADE",
        f"-A POSTROUTING ! -s {network} -d {network} -j MASQUERADE",
    )


def nftables(listed: str) -> list[str]:
    """Commands that remove flannel's tables from what `nft list tables` printed."""
    return [f"nft delete {line}" for line in listed.splitlines() if re.fullmatch(r"table \S+ flannel-ipv[46]", line)]
