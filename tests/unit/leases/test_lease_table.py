"""Which leases of before count beside those that are there after etcd lost its data."""

from __future__ import annotations

import time

from overlayd.leases.lease import parse_lease
from overlayd.leases.lease_table import uncontradicted

GOOD = b'{"PublicIP":"198.18.0.1","BackendType":"host-gw"}'


def test_many_leases_are_compared_in_no_time_after_etcd_lost_its_data() -> None:
    old = {f"10.{a}.{b}.0-24": parse_lease(f"10.{a}.{b}.0-24", GOOD) for a in range(40) for b in range(250)}
    new = {
        f"172.16.{b}.0-24": parse_lease(f"172.16.{b}.0-24", GOOD.replace(b"0.1", f"{b}.1".encode())) for b in range(250)
    }
    wide = parse_lease("10.7.0.0-16", GOOD.replace(b"0.1", b"9.9"))
    new = {name: lease for name, lease in new.items() if str(lease.public_ip) != "198.18.0.1"} | {"wide": wide}
    began = time.monotonic()
    kept = uncontradicted(old, new)
    assert time.monotonic() - began < 3
    assert set(kept) == {name for name in old if not name.startswith("10.7.")}
    nested = parse_lease("10.8.3.16-28", GOOD.replace(b"0.1", b"9.8"))
    assert set(old) - set(uncontradicted(old, {"nested": nested})) == {"10.8.3.0-24"}
    same_host = parse_lease("10.9.0.0-24", GOOD), parse_lease("10.10.0.0-24", GOOD)
    assert uncontradicted({"a": same_host[0]}, {"b": same_host[1]}) == {}
