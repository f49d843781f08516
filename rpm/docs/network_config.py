"""The network config's keys in words. A test compares the names with those that the program takes."""

from __future__ import annotations

KEYS: dict[str, str] = {
    "Network": "The network of all containers, for example `10.42.0.0/16`; a /28 or wider. It must be there, unless "
    "EnableIPv4 is false.",
    "SubnetLen": "Length of each host's subnet, from two more than Network's up to 30. Default: 24 where Network is "
    "a /22 or wider, else two more than Network's.",
    "SubnetMin": "First address of the first subnet to lease. Default: the second subnet of Network.",
    "SubnetMax": "First address of the last subnet to lease. Default: the last subnet of Network.",
    "EnableIPv4": "Carry IPv4. Default: true.",
    "EnableIPv6": "Carry IPv6, beside IPv4 or alone. Default: false.",
    "IPv6Network": "The network of all containers in IPv6, for example `fd42::/48`; a /124 or wider. It must be there "
    "where EnableIPv6 is true.",
    "IPv6SubnetLen": "Length of each host's IPv6 subnet, from two more than IPv6Network's up to 126. Default: 64 "
    "where IPv6Network is a /62 or wider, else two more than IPv6Network's.",
    "IPv6SubnetMin": "As SubnetMin, in IPv6.",
    "IPv6SubnetMax": "As SubnetMax, in IPv6.",
    "EnableNFTables": "As flannel's hosts read it: rules by nftables. Default: false.",
    "Backend": "How packets travel: an object with `Type` and that backend's own keys. Default: "
    '`{"Type": "udp"}`, as it is flannel\'s.',
}

_VXLAN = {
    "VNI": "The network's number in VXLAN, from 1 to 16777215; the devices are overlay.VNI and, for IPv6, "
    "overlay-v6.VNI, or overlay.xHEX and overlay-xHEX where that is too long a name. Default: 1.",
    "Port": "UDP port. Default: 8472.",
    "GBP": "Group policy extension: a packet's mark goes along. All hosts must agree. Default: false.",
    "Learning": "Let the kernel learn peers' MACs from packets. Default: false; every peer is programmed.",
    "DirectRouting": "Plain routes to peers that the underlay reaches without a router. Default: false.",
    "MTU": "The underlay's MTU, where the interface's own is not what the way to peers carries. Default: the "
    "interface's.",
}

# By Type: what it is, and its own keys.
BACKENDS: dict[str, tuple[str, dict[str, str]]] = {
    "vxlan": (
        "VXLAN by the kernel, in UDP. Crosses any IP network. Packets of containers are up to 50 bytes shorter than "
        "the underlay's, 70 where the network has IPv6.",
        _VXLAN,
    ),
    "auto": (
        "Plain routes to peers that the underlay reaches without a router, VXLAN to the others. Hosts of a vxlan "
        "network and of an auto network serve each other.",
        {key: text for key, text in _VXLAN.items() if key != "DirectRouting"},
    ),
    "host-gw": (
        "A plain route to each peer, no encapsulation. All hosts must be on one network segment, and `public-ip` must "
        "be the interface's own address. No keys.",
        {},
    ),
    "udp": (
        "Bare packets in UDP, carried by the daemon, as flannel's udp backend does. IPv4 only, and slow; for joining "
        "such a network. Packets of containers are up to 28 bytes shorter than the underlay's.",
        {"Port": "UDP port. Default: 8285."},
    ),
    "ipip": (
        "IP in IP by the kernel. Crosses any IP network that lets IP protocol 4 through. IPv4 only. Packets of "
        "containers are up to 20 bytes shorter than the underlay's.",
        {"DirectRouting": _VXLAN["DirectRouting"]},
    ),
    "extension": (
        "Commands make the data path: programs in the folder that OVERLAYD_EXTENSION_COMMANDS names on each host, by "
        "their whole paths; a host that names none, or another, stays out, and says so. No running daemon begins "
        "with them, nor take others: `systemctl restart overlayd` does. "
        "They are run without a shell, with the service's own rights, for 10 seconds at "
        "most (30 for the first two), once a boot for what they are about, and again where they failed. $SUBNET, "
        "$IPV6SUBNET, $PUBLIC_IP and $PUBLIC_IPV6 are the peer's, as words and in the environment; a peer's lease data "
        "is on standard input. The MTU of containers is the underlay's.",
        {
            "PreStartupCommand": "Run before a subnet is leased. What it prints is the lease's data.",
            "PostStartupCommand": "Run with the leased subnet; the variables are this host's, and $NETWORK.",
            "SubnetAddCommand": "Run for each peer.",
            "SubnetRemoveCommand": "Run for a peer that left or changed, and by `overlayd cleanup`.",
            "ShutdownCommand": "Undoes the first two. flannel has none, and leaves the key alone.",
        },
    ),
    "wireguard": (
        "WireGuard, encrypted: by the kernel, or by wireguard-go where the kernel has none. Packets of containers are "
        "up to 80 bytes shorter than the underlay's. Each host's key is in wireguard.key of the state directory.",
        {
            "ListenPort": "UDP port. Default: 51820.",
            "ListenPortV6": "UDP port of the device for IPv6, where that is a device of its own. Default: 51821.",
            "PSK": "A preshared key beside the hosts' own, in base64 as `wg genpsk` prints it. Default: none.",
            "MTU": "The underlay's MTU, where the interface's own is not what the way to peers carries. Default: the "
            "interface's.",
            "Mode": "`separate`: a device for each family; `ipv4`, `ipv6`: one device for both, over that family; "
            "`auto`: one device, each peer over the family that both have. Default: separate.",
            "PersistentKeepaliveInterval": "Seconds between packets that keep a way through address translation "
            "open; 0 for none. Default: 0.",
        },
    ),
    "alloc": ("A lease, and no data path: something else carries the packets. No keys.", {}),
}
