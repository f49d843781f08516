"""A real daemon's HTTP pages while things around it break and are repaired."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.test_refusals import PREFIX, write
from tests.testbed.netns import wire
from tests.testbed.netns.families import host_on, prefer
from tests.testbed.netns.lab import ETCD, UNDERLAY, Host, Lab, laboratory
from tests.testbed.netns.namespaces import inside
from tests.testbed.polling import eventually

PORT = 8471
# A peer that does not run.
PEER9 = '{"PublicIP": "198.18.1.9", "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:09"}}'


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Host a, whose pages are read, and host b."""
    with laboratory(tmp_path_factory.mktemp("watching"), {"Type": "vxlan"}) as lab:
        host_on(lab, "a", "10.5.20.0/24", settings={"healthz-port": PORT})
        host_on(lab, "b", "10.5.21.0/24")
        yield lab


def forget(lab: Lab, key: str) -> None:
    """Remove a key from etcd."""
    lab.run(["env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={ETCD}", "del", f"{PREFIX}/{key}"])


def take_away(lab: Lab, host: Host) -> None:
    """Remove a host and its lease: for half a minute a host that lost its power is a peer that is not reached."""
    key = f"subnets/{str(host.subnet).replace('/', '-')}"
    lab.remove_host(host)
    forget(lab, key)


def fetch(host: Host, path: str) -> tuple[int, str]:
    """Status code and body of a page of a host's daemon."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{host.address}:{PORT}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return inside(host.namespace, get)


def unwell(host: Host) -> dict[str, str]:
    """The checks of /readyz that fail; asserts that status code and body agree."""
    code, body = fetch(host, "/readyz")
    document = json.loads(body)
    found = {name: words for name, words in document["checks"].items() if words != "ok"}
    assert (code == 200) == document["ready"] == (not found)
    return found


def figures(host: Host) -> dict[str, float]:
    """The samples of /metrics by name; samples that differ only in labels are added."""
    code, body = fetch(host, "/metrics")
    assert code == 200
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def sample(host: Host, name: str, labels: dict[str, str]) -> float:
    """One sample of /metrics."""
    families = text_string_to_metric_families(fetch(host, "/metrics")[1])
    found = [one.value for family in families for one in family.samples if (one.name, one.labels) == (name, labels)]
    assert len(found) == 1, (name, labels)
    return found[0]


def becomes_ready(host: Host) -> None:
    eventually("it is ready", lambda: not unwell(host), timeout_s=30)


def test_a_daemon_that_serves_is_healthy_and_ready(a: Host) -> None:
    becomes_ready(a)
    code, body = fetch(a, "/healthz")
    assert (code, json.loads(body)["checks"]) == (200, {"lease keeper": "ok", "main loop": "ok"})
    assert fetch(a, "/")[0] == 404


def test_metrics_show_lease_and_peers_and_count_repairs(a: Host, b: Host) -> None:
    eventually("b is known", lambda: figures(a)["overlayd_peers"] == 1)
    before = figures(a)
    assert before["overlayd_peers"] == before["overlayd_lease_held"] == before["overlayd_etcd_connected"] == 1
    assert before["overlayd_etcd_revision"] > 1
    assert 0 < before["overlayd_lease_last_refresh_timestamp_seconds"] - before["process_start_time_seconds"] < 60
    a.run("ip", "route", "flush", "proto", "157")
    a.run("iptables", "-t", "nat", "-F")

    def mended() -> bool:
        now = figures(a)
        return all(
            now[name] > before[name]
            for name in (
                "overlayd_kernel_operations_total",
                "overlayd_firewall_writes_total",
                "overlayd_reconciliations_total",
                "overlayd_reconciliation_seconds_total",
                "overlayd_last_whole_reconciliation_timestamp_seconds",
                "process_cpu_seconds_total",
            )
        )

    eventually("the mending was counted", mended)
    assert figures(a)["overlayd_data_path_problems"] == 0


@pytest.mark.parametrize("firewall", ["iptables", "nftables"])
def test_dropped_packets_of_strangers_are_counted(lab: Lab, a: Host, firewall: str) -> None:
    host = lab.host("g", start=False, settings={"healthz-port": PORT, "firewall": firewall})
    prefer(host, "10.5.23.0/24")
    try:
        host.start()
        becomes_ready(host)
        counted = ("overlayd_dropped_packets_total", {"chain": "delivered"})
        before = sample(host, *counted)
        packet = wire.udp(UNDERLAY[200], host.address, 8472, wire.vxlan(1, b"x" * 60))
        frame = wire.frame(wire.mac_of(host.namespace, "eth0"), wire.mac_of(a.namespace, "eth0"), packet)
        wire.send(a.namespace, "eth0", [frame] * 5)
        eventually("five are counted", lambda: sample(host, *counted) == before + 5)
        # A new peer has the rules written again, and the kernel counts from 0.
        write(lab, "subnets/10.5.9.0-24", PEER9)
        try:
            eventually("the peer is there", lambda: len(host.status()["peers"]) == len(lab.hosts))
            wire.send(a.namespace, "eth0", [frame] * 5)
            eventually("ten are counted", lambda: sample(host, *counted) == before + 10)
        finally:
            forget(lab, "subnets/10.5.9.0-24")
    finally:
        take_away(lab, host)
        eventually("it is no peer any more", lambda: len(a.status()["peers"]) == 1)


def test_what_others_remove_is_counted_as_a_repair(a: Host) -> None:
    becomes_ready(a)
    names = ("overlayd_repairs_total", {"part": "data path"})
    before = sample(a, *names)
    a.run("ip", "route", "flush", "proto", "157")
    # A look may find a part of the routes gone, and the next one the rest.
    eventually("the repair is counted", lambda: sample(a, *names) > before)


def test_the_size_of_the_network_and_the_life_of_the_lease_are_told(a: Host) -> None:
    found = figures(a)
    # 10.5.0.0/16 in subnets of /24, without the first and the last.
    assert 250 <= found["overlayd_network_subnets"] <= 256
    assert found["overlayd_lease_ttl_seconds"] == 86400
    assert abs(found["overlayd_time_seconds"] - time.time()) < 60


def test_without_etcd_a_daemon_is_healthy_and_not_ready(lab: Lab, a: Host) -> None:
    becomes_ready(a)
    lab.stop_etcd()
    try:
        eventually("it says so", lambda: unwell(a).keys() == {"etcd"}, timeout_s=30)
        assert ETCD in unwell(a)["etcd"]
        assert fetch(a, "/healthz")[0] == 200
        assert figures(a)["overlayd_etcd_connected"] == 0
    finally:
        lab.start_etcd()
    becomes_ready(a)


def test_a_peer_with_another_backend_makes_the_host_unready(lab: Lab, a: Host) -> None:
    becomes_ready(a)
    write(lab, "subnets/10.5.9.0-24", '{"PublicIP": "198.18.1.9", "BackendType": "host-gw"}')
    try:
        eventually("it says so", lambda: unwell(a).keys() == {"peers"})
        assert "10.5.9.0/24 at 198.18.1.9: its backend is host-gw" in unwell(a)["peers"]
        assert figures(a)["overlayd_peers_with_problems"] == 1
    finally:
        forget(lab, "subnets/10.5.9.0-24")
    becomes_ready(a)


def test_a_peer_that_cannot_be_served_makes_the_host_unready(lab: Lab, a: Host) -> None:
    becomes_ready(a)
    # Its subnet is an on-link network of this host.
    a.run("ip", "address", "add", "10.5.9.1/24", "broadcast", "10.5.9.0", "dev", "docker0")
    write(lab, "subnets/10.5.9.0-24", PEER9)
    try:
        eventually("it says so", lambda: unwell(a).keys() == {"peers"})
    finally:
        a.run("ip", "address", "delete", "10.5.9.1/24", "dev", "docker0")
        forget(lab, "subnets/10.5.9.0-24")
    becomes_ready(a)


def test_a_network_config_that_turns_bad_is_reported(lab: Lab, a: Host) -> None:
    becomes_ready(a)
    before = figures(a)["overlayd_network_config_errors_total"]
    write(lab, "config", "{")
    try:
        eventually("it says so", lambda: unwell(a).keys() == {"network-config"})
        assert figures(a)["overlayd_network_config_errors_total"] == before + 1
    finally:
        lab.configure({"Type": "vxlan"})
    becomes_ready(a)


def test_a_host_whose_subnet_was_taken_reports_it_and_gets_another(lab: Lab) -> None:
    host = lab.host("f", settings={"healthz-port": PORT})
    try:
        becomes_ready(host)
        lost = host.subnet
        key = f"subnets/{str(lost).replace('/', '-')}"
        write(lab, key, '{"PublicIP": "198.18.1.77", "BackendType": "host-gw"}')
        eventually("it has another", lambda: host.subnet != lost and figures(host)["overlayd_ready"] == 0)
        # The HTTP server answers throughout. docker0 is still on the old subnet, and the thief's backend is not vxlan.
        eventually("it says what is wrong now", lambda: unwell(host).keys() == {"docker", "peers"})
        assert str(lost[1]) in unwell(host)["docker"]
        assert figures(host)["overlayd_leases_lost_total"] == 1
        forget(lab, key)
        eventually("the thief is forgotten", lambda: unwell(host).keys() == {"docker"})
    finally:
        take_away(lab, host)


def test_docker_on_another_address_makes_the_host_unready(a: Host) -> None:
    becomes_ready(a)
    own = f"{a.subnet[1]}/{a.subnet.prefixlen}"
    a.run("ip", "address", "replace", "172.17.0.1/16", "dev", "docker0")
    a.run("ip", "address", "delete", own, "dev", "docker0")
    try:
        eventually("it says so", lambda: unwell(a).keys() == {"docker"})
        assert "172.17.0.1/16" in unwell(a)["docker"]
        # The file is written a moment after the status that /readyz shows has changed.
        eventually("the file says so too", lambda: a.status()["docker_problems"])
        assert figures(a)["overlayd_docker_problems"] == 1
    finally:
        a.run("ip", "address", "add", own, "dev", "docker0")
    becomes_ready(a)
    a.run("ip", "address", "delete", "172.17.0.1/16", "dev", "docker0")


def test_a_host_without_docker_is_ready(lab: Lab) -> None:
    host = lab.host("c", start=False, settings={"healthz-port": PORT, "healthz-ip": "::"})
    try:
        host.start()
        becomes_ready(host)
    finally:
        take_away(lab, host)


def test_the_files_that_docker_starts_from_come_back(a: Host) -> None:
    files = [a.run_dir / "docker.env", a.run_dir / "subnet.env"]
    before = [file.read_text() for file in files]
    files[0].unlink()
    files[1].write_text("FLANNEL_SUBNET=10.99.0.1/24\n")
    eventually("they are back", lambda: files[0].exists() and [file.read_text() for file in files] == before)


def test_a_health_port_in_use_does_not_keep_the_daemon_down(lab: Lab) -> None:
    host = lab.host("d", start=False, settings={"healthz-port": PORT})
    try:
        # Any user of the host can bind the port.
        with inside(host.namespace, lambda: socket.create_server(("0.0.0.0", PORT))):
            host.start()
            taken = f"cannot serve /healthz on 0.0.0.0:{PORT}: Address already in use"
            assert host.status()["problems"] == [taken]
            assert (host.run_dir / "docker.env").exists()
        eventually("it takes the port", lambda: host.status()["problems"] == [] and host.status()["watched_at"])
        becomes_ready(host)
    finally:
        take_away(lab, host)


def test_no_page_and_no_status_shows_a_secret(lab: Lab) -> None:
    secret = "open-sesame-7"
    host = lab.host("e", start=False)
    password = host.run_dir / "password"
    password.write_text(secret)
    host.settings |= {"healthz-port": PORT, "etcd-username": "overlayd", "etcd-password-file": password}
    try:
        # This etcd has no users and asks for no login; the daemon has read the password all the same.
        host.start()
        pages = [fetch(host, path)[1] for path in ("/healthz", "/readyz", "/metrics")]
        shown = [host.call("status").stdout, host.call("status", "--json").stdout, host.log.read_text()]
        assert all(pages)
        assert all(shown)
        assert secret not in "".join(pages + shown)
    finally:
        take_away(lab, host)


def test_the_status_command_agrees_with_readyz(a: Host) -> None:
    becomes_ready(a)
    shown = a.call("status")
    assert (shown.returncode, "  vxlan  " in shown.stdout) == (0, True), shown.stdout
    found = a.call("status", "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["checks"] == json.loads(fetch(a, "/readyz")[1])["checks"]
    a.stop()
    try:
        stopped = a.call("status")
        assert (stopped.returncode, "stopped" in stopped.stdout) == (1, True)
    finally:
        a.start()
