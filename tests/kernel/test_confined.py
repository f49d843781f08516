"""The daemon does all its work with only the rights that the unit leaves it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from overlayd.probe.container_sockets import COMMAND_TIMEOUT_S, Request
from overlayd.probe.icmp import echo_request
from tests.testbed.netns.lab import Host, Lab, environment
from tests.testbed.netns.traffic import pings
from tests.testbed.polling import eventually

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "rpm/units/overlayd.service"
CONFINED = ROOT / "tests/testbed/netns/confined.py"


@pytest.fixture
def confined(lab: Lab) -> Iterator[Host]:
    """A third host, whose daemon runs with the unit's confinement."""
    host = lab.host("c", lease_ttl_s=5, start=False, settings={"fast-path": "auto"})
    host.launcher = (sys.executable, str(CONFINED), str(UNIT), str(host.run_dir), str(host.state_dir), "--")
    try:
        host.start()
        host.start_container()
        lease = f"/coreos.com/network/subnets/{host.subnet.network_address}"
        yield host
    finally:
        lab.remove_host(host)
    # The lab is other tests' too: to them it would be a peer that does not answer.
    lab.etcdctl("del", "--prefix", lease)
    eventually("it is no peer", lambda: str(host.address) not in str([one.status()["peers"] for one in lab.hosts]))


def test_a_confined_daemon_joins_repairs_and_cleans_up(a: Host, confined: Host) -> None:
    eventually("a reaches it", partial(pings, a, confined))
    eventually("it reaches a", partial(pings, confined, a))
    assert confined.status()["problems"] == []
    # The unit lets it load its BPF programs. WireGuard makes its packets itself.
    slow = {"wireguard": "only the backend wireguard itself"}
    wanted = slow.get(confined.status()["backend"], "on")
    eventually("the fast path is on where it can be", lambda: confined.status()["fast_path"].startswith(wanted))
    before = confined.run("iptables-save", "-t", "raw")
    assert "OVERLAYD-PREROUTING" in before
    confined.run("iptables", "-t", "raw", "-F", "OVERLAYD-PREROUTING")
    eventually(
        "rules are written again",
        lambda: confined.run("iptables-save", "-t", "raw").count("-A") == before.count("-A"),
        timeout_s=20,
    )
    log = confined.log.read_text()
    assert "Operation not permitted" not in log
    assert "Read-only file system" not in log
    assert confined.stop() == 0


def test_older_iptables_work_under_confinement(lab: Lab, a: Host) -> None:
    host = lab.host("d", lease_ttl_s=5, start=False)
    host.launcher = (sys.executable, str(CONFINED), str(UNIT), str(host.run_dir), str(host.state_dir), "--")
    for name in ("iptables", "iptables-save", "iptables-restore"):
        # Links, as distributions have them: overlayd recognises the kind of iptables by the link's target.
        (host.bin_dir / name).symlink_to(shutil.which("xtables-legacy-multi") or "/no/legacy/iptables")
    try:
        host.start()
        host.start_container()
        eventually("a reaches it", partial(pings, a, host))
        assert "OVERLAYD-POSTROUTING" in host.run("iptables-legacy-save")
        assert host.status()["problems"] == []
    finally:
        lab.remove_host(host)


def test_a_certificate_in_a_closed_folder_is_named_with_the_way_out(confined: Host) -> None:
    confined.stop()
    confined.settings = {"etcd-cafile": "/root/ca.pem", "etcd-endpoints": "https://198.18.1.254:2379"}
    done = confined.call("run")
    assert done.returncode == 2, done
    assert "/root/ca.pem is in a folder that is closed" in done.stderr
    assert "/etc/overlayd" in done.stderr


def test_public_files_are_readable_whatever_the_umask(confined: Host) -> None:
    argv = [sys.executable, "-m", "overlayd", "status", f"--run-dir={confined.run_dir}", f"--config-file={os.devnull}"]
    for path in (confined.run_dir / name for name in ("subnet.env", "docker.env", "status.json")):
        assert path.stat().st_mode & 0o777 == 0o644, path
    said = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_confinement_refuses_what_the_unit_forbids() -> None:
    # This shows that the confinement works: root may do each of these without it.
    script = """
import mmap, os, resource, socket
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0
print(refused(os.chroot, "/"), refused(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
      refused(open, "/etc/forbidden", "w"), refused(os.sched_setaffinity, 0, {0}),
      refused(open, "/proc/sys/vm/swappiness", "w"), refused(open, "/proc/sys/net/core/somaxconn", "r+"),
      refused(os.listdir, "/root"), resource.getrlimit(resource.RLIMIT_CORE)[0],
      refused(mmap.mmap, -1, 4096, mmap.MAP_PRIVATE, mmap.PROT_WRITE | mmap.PROT_EXEC))
"""
    said = subprocess.run(
        [*("unshare", "--mount", sys.executable, CONFINED, UNIT, "--", sys.executable, "-c", script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.split() == ["1", "97", "30", "1", "30", "0", "13", "0", "13"], said.stderr


@pytest.fixture
def lending(a: Host, tmp_path: Path) -> Iterator[Path]:
    """The socket of the service that enters containers of `a`, which runs with its unit's confinement."""
    path = tmp_path / "containers.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o777)
        unit = ROOT / "rpm/units/overlayd-containers.service"
        script = "import sys; from overlayd.probe import socket_server; sys.exit(socket_server.main())"
        # systemd passes the socket as descriptor 3 (sd_listen_fds(3)).
        shell = f'exec 3<&{listening.fileno()}; exec env LISTEN_FDS=1 "$@"'
        argv = ["bash", "-c", shell, "bash", *("ip", "netns", "exec", a.namespace)]
        argv += [sys.executable, str(CONFINED), str(unit), "--", sys.executable, "-c", script]
        process = subprocess.Popen(argv, pass_fds=(listening.fileno(),), env=environment())
        try:
            yield path
        finally:
            process.terminate()
            process.wait(10)


def test_the_containers_service_works_with_its_two_capabilities(a: Host, b: Host, lending: Path) -> None:
    with closing(Request(lending, "docker0")) as request:
        (lent,) = request.answer(timeout_s=COMMAND_TIMEOUT_S)
    assert lent.addresses == (a.container_address,)
    with lent.socket(4) as inside:
        message = echo_request(4, ident=1, sequence=1, token=bytes(8), packet_bytes=100)
        inside.sendto(message, (str(b.container_address), 0))
        inside.settimeout(5)
        answer, (sender, _port) = inside.recvfrom(2048)
    assert sender == str(b.container_address)
    # The echo was sent from the container: the answer came to the container's address.
    assert answer[16:20] == a.container_address.packed


def test_only_root_is_given_a_socket(a: Host, lending: Path) -> None:
    script = f"""
import socket
asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asked.settimeout(5)
asked.connect({str(lending)!r})
asked.send(b"containers docker0")
print(socket.recv_fds(asked, 4096, 4)[:2])
"""
    # pytest's folders are closed to other users, so the user is given a connection that root opened.
    asked = "import os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    said = subprocess.run([sys.executable, "-c", asked + script], capture_output=True, text=True, check=False)
    assert "PermissionError" in said.stderr or said.stdout.strip() == "(b'', [])", said


def test_a_daemon_that_cannot_enter_containers_says_so_and_sends_echoes_from_the_host(a: Host, confined: Host) -> None:
    eventually("it says so", lambda: "containers cannot be entered" in str(confined.status().get("probed_from")))
    file = confined.run_dir / "reach.json"
    eventually("it is asked", lambda: file.exists() and "reached" in file.read_text(), timeout_s=30)
