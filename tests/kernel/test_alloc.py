"""The alloc backend: a lease and docker's files, and nothing in the kernel."""

from __future__ import annotations

from pathlib import Path

from tests.testbed.netns.flannel_host import published
from tests.testbed.netns.lab import laboratory
from tests.testbed.polling import eventually


def test_alloc_makes_a_lease_and_files_but_no_device_and_no_route(tmp_path: Path) -> None:
    with laboratory(tmp_path, {"Type": "alloc"}) as lab:
        a = lab.host("a", start=False)
        devices, routes = a.run("ip", "-br", "link"), a.run("ip", "route")
        a.start()
        b = lab.host("b", start=False)
        b.start()
        eventually("a knows b", lambda: [peer["subnet"] for peer in a.status()["peers"]] == [str(b.subnet)])
        assert (a.run("ip", "-br", "link"), a.run("ip", "route")) == (devices, routes)
        assert a.status()["peers"][0]["problem"] is None
        assert published(lab, a.subnet) == {
            "PublicIP": str(a.address),
            "PublicIPv6": None,
            "BackendType": "alloc",
        }
        assert f"FLANNEL_SUBNET={a.subnet[1]}/24\nFLANNEL_MTU=1500\n" in (a.run_dir / "subnet.env").read_text()
        assert f"--bip={a.subnet[1]}/24" in (a.run_dir / "docker.env").read_text()
        assert a.subnet != b.subnet
        # What the previous backend left is removed.
        lab.configure({"Type": "host-gw"})
        eventually("a has a route to b", lambda: str(b.subnet) in a.run("ip", "route"))
        lab.configure({"Type": "alloc"})
        eventually("it is gone again", lambda: a.run("ip", "route") == routes)
