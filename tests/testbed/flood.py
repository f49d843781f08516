"""A hostile writer of etcd: very many leases of every bad kind, changed all the time. Run as a program of its own.

python -m tests.testbed.flood ENDPOINT PREFIX --keys 100000 --rate 1000 --seconds 30
python -m tests.testbed.flood ENDPOINT PREFIX --configs CONFIG OTHER --rate 100 --seconds 10
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator

from overlayd.store.access import StoreSettings
from overlayd.store.client import Store
from overlayd.store.rpc import etcdrpc

IN_ONE_TRANSACTION = 100
IN_FLIGHT = 64
HUGE = 1_200_000


def keys(count: int) -> list[str]:
    """Names below `subnets/`: leases of the network's own size, nested ones, wide ones, and what is no subnet."""
    kinds: list[Iterator[str]] = [
        (f"10.5.{number % 256}.{number // 256 % 64 * 4}-30" for number in itertools.count()),
        (f"10.5.{number // 256 % 256}.{number % 256}-32" for number in itertools.count()),
        (f"10.{number % 256}.0.0-{8 + number // 256 % 9}" for number in itertools.count()),
        (
            f"10.6.{number // 256 % 256}.{number % 256}-32&fd42:0:0:{number % 65536:x}::-64"
            for number in itertools.count()
        ),
        (f"172.{number % 256}.{number // 256 % 256}.0-24" for number in itertools.count()),
        (f"no lease %2F\x1b[2J {number} {'x' * (number % 300)}" for number in itertools.count()),
    ]
    found: dict[str, None] = {}
    for kind in itertools.cycle(kinds):
        found.setdefault(next(kind))
        if len(found) >= count:
            return list(found)
    raise AssertionError("unreachable")


def value(rng: random.Random) -> bytes:
    """A lease, good or bad in one of several ways."""
    address = f"198.18.{rng.randrange(256)}.{rng.randrange(256)}"
    data = {"VNI": 1, "VtepMAC": ":".join(f"{rng.randrange(256):02x}" for _ in range(6))}
    lease = {"PublicIP": address, "PublicIPv6": "2001:db8::1", "BackendType": "vxlan", "BackendData": data}
    bad = (
        b"{",
        b"\xff\x00",
        b"[" * 2000,
        json.dumps({**lease, "PublicIP": 7}).encode(),
        b'{"PublicIP":"' + address.encode(),
    )
    wide = json.dumps({**lease, "BackendData": {"a": [[]] * 500}}).encode()
    return rng.choices((json.dumps(lease).encode(), rng.choice(bad), wide), (90, 9, 1))[0]


def fill(store: Store, prefix: str, names: list[str], rng: random.Random) -> None:
    """Write all of them once, and some that are huge."""
    for begin in range(0, len(names), IN_ONE_TRANSACTION):
        puts = [
            etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=f"{prefix}/subnets/{name}".encode(), value=value(rng)))
            for name in names[begin : begin + IN_ONE_TRANSACTION]
        ]
        store.servers.call("flood", lambda c: c.kv.Txn, etcdrpc.TxnRequest(success=puts), repeatable=True)
    for number in range(20):
        store.put(f"{prefix}/subnets/10.7.{number}.0-24", b'{"PublicIP":"198.18.0.9"}'.ljust(HUGE))


def change(store: Store, prefix: str, names: list[str], rng: random.Random, *, rate: int, seconds: float) -> int:
    """Change one after the other, each in a transaction of its own; how many."""
    put = store.servers._connect(5.0).kv.Put
    began, done = time.monotonic(), 0
    flying: list[object] = []
    while (now := time.monotonic()) < began + seconds:
        if done >= (now - began) * rate:
            time.sleep(0.002)
            continue
        if len(flying) >= IN_FLIGHT:
            flying.pop(0).result()  # type: ignore[attr-defined]
        key = f"{prefix}/subnets/{rng.choice(names)}".encode()
        flying.append(put.future(etcdrpc.PutRequest(key=key, value=value(rng)), timeout=20))
        done += 1
    return done


def alternate(store: Store, prefix: str, configs: list[str], *, rate: int, seconds: float) -> int:
    """Write one network config after the other, delete it now and then, and end with the first; how many."""
    began, done = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        key = f"{prefix}/config"
        found = store.get(key)
        if done % 7 == 6 and found is not None:
            store.delete(key, mod_revision=found.mod_revision)
        else:
            store.put(key, configs[done % 2].encode())
        done += 1
        time.sleep(max(0.0, began + done / rate - time.monotonic()))
    store.put(f"{prefix}/config", configs[0].encode())
    return done


def main() -> int:
    """Fill, say `full`, change, say how many."""
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("prefix")
    parser.add_argument("--configs", nargs=2)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    store = Store(StoreSettings(endpoints=(options.endpoint,)))
    if options.configs:
        done = alternate(store, options.prefix, options.configs, rate=options.rate, seconds=options.seconds)
        print(f"changed {done}", flush=True)  # noqa: T201
        return 0
    rng, names = random.Random(1), keys(options.keys)
    began = time.monotonic()
    fill(store, options.prefix, names, rng)
    print(f"full after {time.monotonic() - began:.1f} s", flush=True)  # noqa: T201
    done = change(store, options.prefix, names, rng, rate=options.rate, seconds=options.seconds)
    print(f"changed {done}", flush=True)  # noqa: T201
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
