"""`overlayd check` says what the daemon would do, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.test_lifecycle import ours
from tests.testbed.netns.lab import Host, laboratory
from tests.testbed.polling import eventually


def everything(host: Host) -> str:
    """All state of a host that a daemon could change."""
    commands = (("ip", "link"), ("ip", "address"), ("ip", "route"), ("iptables-save",), ("nft", "list", "ruleset"))
    shown = [host.run(*words) for words in commands]
    forwarding = host.run("sysctl", "-n", "net.ipv4.ip_forward")
    files = sorted(str(path) for folder in (host.run_dir, host.state_dir) for path in folder.rglob("*"))
    return "\n".join([*shown, forwarding, *files])


def settled(host: Host) -> bool:
    """Whether eth0 has a carrier, and its addresses have been looked for elsewhere."""
    shown = host.run("ip", "address", "show", "dev", "eth0")
    return "NO-CARRIER" not in shown and "tentative" not in shown


@pytest.mark.parametrize(
    ("backend", "needs"),
    [
        ("vxlan", ["vxlan devices: ", "udp port 8472 over IPv4 from peers", "overlay.1"]),
        ("wireguard", ["wireguard devices: by wireguard-go", "udp port 51820 over IPv4 from anybody", "overlay-wg"]),
        ("host-gw", ["nothing that not every kernel has", "nothing from the underlay"]),
    ],
    ids=["vxlan", "wireguard", "host-gw"],
)
def test_check_reports_what_run_would_do_and_changes_nothing(tmp_path: Path, backend: str, needs: list[str]) -> None:
    with laboratory(tmp_path, {"Type": backend}) as lab:
        host = lab.host("a", start=False)
        # What the kernel itself changes in the second after a link came up.
        eventually("eth0 has its state", lambda: settled(host))
        before, keys = everything(host), lab.etcdctl("get", "--prefix", "--keys-only", "/")
        done = host.call("check")
        assert done.returncode == 0, done.stderr
        for words in (*needs, "eth0 (iface eth0)", str(host.address), "10.5.0.0/16", "etcd-endpoints"):
            assert words in done.stdout, done.stdout
        assert everything(host) == before
        assert ours(host) == ""
        assert lab.etcdctl("get", "--prefix", "--keys-only", "/") == keys
