"""Leases that may be in etcd: some are correct, most are wrong in some way, all are for one small network.

The network is 10.5.0.0/16 and fd42::/48; this host is 198.18.1.1 and 2001:db8:1::1, with subnets number 1.
"""

from __future__ import annotations

import json

from hypothesis import strategies as st

from overlayd.leases.keys import SUBNETS
from overlayd.store.protocol import KeyValue
from tests.unit.fuzz.documents import damaged, documents, encoded, joined, raw, values

ADDRESSES4 = (
    *("198.18.1.2", "198.18.1.3", "198.18.1.4", "198.19.7.2", "198.19.7.3"),
    # This host; its network; its broadcast address; inside the overlay; inside this host's own subnet.
    *("198.18.1.1", "198.18.1.0", "198.18.1.255", "10.5.2.5", "10.5.1.5"),
    *("0.0.0.0", "0.0.0.1", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255", "169.254.1.1"),
)
ADDRESSES6 = (
    *("2001:db8:1::2", "2001:db8:1::3", "2001:db8:7::2", "2001:db8:1::1", "2001:db8:1::"),
    *("fd42:0:0:2::5", "fd42:0:0:1::5", "::", "::1", "ff02::1", "fe80::1", "fe80::1%eth0", "2001:db8:1::2%eth0"),
    *("::ffff:198.18.1.2", "64:ff9b::1", "100::1"),
)
SUBNETS4 = (
    *("10.5.2.0-24", "10.5.3.0-24", "10.5.4.0-24", "10.5.200.0-24"),
    # The same base with other lengths; one inside another; this host's own subnet, a wider one, and a part of it.
    *("10.5.2.0-25", "10.5.2.0-23", "10.5.2.0-32", "10.5.2.128-25", "10.5.0.0-20", "10.5.1.0-24", "10.5.0.0-23"),
    *("10.5.1.128-25", "10.5.1.1-32", "10.5.128.0-17"),
    # As wide as the network, wider, outside; no subnet at all.
    *("10.5.0.0-16", "10.0.0.0-8", "0.0.0.0-0", "128.0.0.0-1", "10.6.2.0-24", "198.18.1.0-24", "224.0.0.0-24"),
    *("127.0.0.0-8", "255.255.255.255-32", "10.5.2.1-24", "10.5.2.0-33", "10.5.2.0-024", "10.5.2.0-", "10.5.2.0"),
)
SUBNETS6 = (
    *("fd42:0:0:2::-64", "fd42:0:0:3::-64", "fd42-0-0-2---64", "FD42:0:0:2::-64", "fd42:0:0:2::-65"),
    *("fd42:0:0:2::-128", "fd42:0:0:2::%eth0-64", "fd42:0:0:1::-64", "fd42::-63", "fd42::-48", "fd00::-8", "::-0"),
    *("2001:db8:1::-64", "fe80::-64", "ff00::-8", "fd42:0:0:2::1-64", "fd42:0:0:2::-129", "::ffff:10.5.2.0-120"),
)
MACS = (
    *("02:00:00:00:00:02", "02:00:00:00:00:03", "AA:BB:CC:DD:EE:0F", "aa:bb:cc:dd:ee:0f"),
    *("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "02:00:00:00:00", "02-00-00-00-00-02", "02:00"),
    *("02:00:00:00:00:02\n", "\u0660\u0662:00:00:00:00:02", "", "0x2:00:00:00:00:0"),
)
WIREGUARD_KEYS = ("A" * 43 + "=", "B" * 42 + "A=", "C" * 42 + "A=", "B" * 43 + "=", "A" * 44, "", "/" * 43 + "=")
TYPES = ("vxlan", "vxlan", "host-gw", "udp", "ipip", "wireguard", "alloc", "extension", "auto", "VXLAN", "", "v\033[2J")


def keys() -> st.SearchStrategy[str]:
    """The last part of a key."""
    v4 = st.sampled_from(SUBNETS4[:10]) | st.sampled_from(SUBNETS4)
    v6 = st.sampled_from(SUBNETS6[:6]) | st.sampled_from(SUBNETS6)
    ours = v4 | st.builds("{}&{}".format, v4, v6) | st.builds("0.0.0.0-0&{}".format, v6)
    return ours | ours | ours | st.text(max_size=12) | st.builds("{}{}".format, v4, st.text(max_size=3))


def backend_data() -> st.SearchStrategy[str]:
    """The BackendData of a backend, as JSON."""
    member = st.sampled_from(['"VNI"', '"vni"', '"VtepMAC"', '"PublicKey"', '"publickey"', '"Port"'])
    good = st.sampled_from([*map(json.dumps, (*MACS, *WIREGUARD_KEYS)), "1", "1", "1.0", "true", "7", '"1"'])
    right = st.sampled_from(MACS[:4]).map(lambda mac: json.dumps({"VNI": 1, "VtepMAC": mac}))
    key = st.sampled_from(WIREGUARD_KEYS[1:3]).map(lambda key: json.dumps({"PublicKey": key}))
    wrong = st.lists(st.tuples(member, good | values()), max_size=4).map(joined)
    return right | right | right | right | key | key | wrong | values()


def usable() -> st.SearchStrategy[bytes]:
    """Values of valid leases, of hosts with any backend."""
    kind, v4, v6 = st.sampled_from(TYPES), st.sampled_from(ADDRESSES4), st.sampled_from(ADDRESSES6) | st.none()
    return st.builds(_value, kind, v4, v6, backend_data(), backend_data())


def _value(kind: str, v4: str, v6: str | None, data: str, data6: str) -> bytes:
    members = [("PublicIP", v4), ("PublicIPv6", v6), ("BackendType", kind)]
    published = [("BackendData", data), ("BackendV6Data", data6)]
    return encoded(
        joined([(json.dumps(name), json.dumps(value)) for name, value in members] + [*map(_named, published)])
    )


def _named(member: tuple[str, str]) -> tuple[str, str]:
    return json.dumps(member[0]), member[1]


def rivals(kind: str) -> st.SearchStrategy[dict[str, KeyValue]]:
    """Leases that are correct each by itself; but many have the same subnet, address, MAC or key."""
    v4 = st.sampled_from([name for name in SUBNETS4[:14] if not name.startswith(("10.5.1.", "10.5.0."))])
    v6 = st.sampled_from(SUBNETS6[:6])
    names = v4 | st.builds("{}&{}".format, v4, v6) | st.builds("0.0.0.0-0&{}".format, v6)
    data = {
        "vxlan": st.sampled_from(MACS[:4]).map(lambda mac: json.dumps({"VNI": 1, "VtepMAC": mac})),
        "wireguard": st.sampled_from(WIREGUARD_KEYS[1:3]).map(lambda key: json.dumps({"PublicKey": key})),
    }.get(kind, st.just("null"))
    address, address6 = st.sampled_from(ADDRESSES4[:5]), st.sampled_from(ADDRESSES6[:3]) | st.none()
    return tables(st.builds(_value, st.just(kind), address, address6, data, data), names=names, most=5)


def any_values() -> st.SearchStrategy[bytes]:
    """Any value that a lease's key may have."""
    field = (
        st.sampled_from([*ADDRESSES4, *ADDRESSES6, *TYPES]).map(json.dumps)
        | st.ip_addresses(v=4).map(lambda one: json.dumps(str(one)))
        | st.ip_addresses(v=6).map(lambda one: json.dumps(str(one)))
        | backend_data()
    )
    names = ("PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data")
    good = usable()
    return good | good | documents(names, field, least=1) | damaged(good) | raw()


def tables(
    values: st.SearchStrategy[bytes] | None = None,
    *,
    names: st.SearchStrategy[str] | None = None,
    most: int = 8,
) -> st.SearchStrategy[dict[str, KeyValue]]:
    """What may be below subnets/, by the last part of the key. Some are attached to an etcd lease, some not."""
    found = any_values() if values is None else values
    return st.dictionaries(keys() if names is None else names, st.tuples(found, st.integers(0, 2)), max_size=most).map(
        lambda entries: {
            name: KeyValue(key=f"/n/{SUBNETS}{name}", value=value, mod_revision=7, lease_id=lease_id)
            for name, (value, lease_id) in entries.items()
        }
    )
