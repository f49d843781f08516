"""doctor finds no problem on a healthy host, with each backend."""

from __future__ import annotations

from pathlib import Path

from tests.kernel.test_doctor import doctor, problems
from tests.kernel.test_ping import ping
from tests.testbed.netns.lab import Host, laboratory
from tests.testbed.polling import eventually


def test_a_healthy_host_has_no_problem(a: Host, b: Host, backend: str) -> None:
    status, findings = doctor(a)
    assert (status, problems(findings)) == (0, {})
    for name in ("docker-raw", "forward-in", "forward-out", "backend-port", "rp-filter", "underlay-mtu", "lease"):
        if name != "backend-port" or backend != "host-gw":
            assert findings[name]["state"] == "ok", findings[name]


def test_strict_reverse_path_filters_do_no_harm(a: Host, b: Host, backend: str) -> None:
    a.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    try:
        status, findings = doctor(a, "--no-arp")
    finally:
        a.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
    assert (status, findings["rp-filter"]["state"]) == (0, "ok")
    assert "strict on eth0" in findings["rp-filter"]["found"]


def test_doctor_and_ping_find_a_dual_stack_host_healthy(tmp_path: Path) -> None:
    with laboratory(tmp_path, {"Type": "vxlan"}, dual=True) as lab:
        one, two = lab.host("a"), lab.host("b")
        eventually("they know each other", lambda: len(one.status()["peers"]) == 1)
        eventually("IPv6 neighbours are known", lambda: ping(one, "--no-mtu")[0] == 0)
        status, findings = doctor(one)
        assert (status, problems(findings)) == (0, {})
        assert (
            findings["ipv6-forward"]["state"]
            == findings["docker-bridge"]["state"]
            == findings["lease"]["state"]
            == "ok"
        )
        _status, document, _ = ping(one)
        assert [peer["version"] for peer in document["peers"]] == [4, 6]
        sixth = document["peers"][1]
        assert (sixth["subnet"], sixth["public_ip"]) == (str(two.subnet6), str(two.address6))
        assert sixth["underlay"]["path_bytes"] == 1500
        assert sixth["overlay"]["path_bytes"] == one.mtu_bytes == 1430
        # A running daemon would turn it on again at once.
        one.stop()
        one.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
        _status, findings = doctor(one, "--no-arp")
        assert findings["ipv6-forward"]["remedy"] == "sysctl -w net.ipv6.conf.all.forwarding=1"
