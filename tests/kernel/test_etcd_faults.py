"""Faults of etcd stop no packets; a change made after the fault is in every kernel within five seconds.

There are two labs with two hosts each. One has a single etcd without TLS and users. The other has three etcds with
TLS and users, each with its own certificate.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.testbed.certificates import Authority, CertificatePair
from tests.testbed.etcd import Etcd
from tests.testbed.netns import etcd_members
from tests.testbed.netns.lab import UNDERLAY, Host, Lab, environment, laboratory
from tests.testbed.netns.traffic import Losses, pinging
from tests.testbed.polling import eventually
from tests.testbed.records import Recorder

BACKEND = {"Type": "vxlan"}
SUBNETS = "/coreos.com/network/subnets"
IN_STEP_S = 5.0
PASSWORD = "correct-horse"
TOKEN = re.compile(r"authorized \S+, token is (\S+)")
_numbers = itertools.count(100)


def three_guarded(lab: Lab) -> None:
    """Three members that demand a certificate and a password; a login expires one second after its last use."""
    hosts = etcd_members.addresses(lab)
    authority = Authority(lab.folder / "ca")
    lab.etcd = Etcd(
        lab.folder,
        hosts=hosts,
        client_port=2379,
        inside=lab.inside,
        certificates=[authority.issue(f"etcd{number}", f"IP:{host}") for number, host in enumerate(hosts)],
        authority=authority.certificate,
        client_certificate=authority.issue("root"),
        flags=["--auth-token-ttl=1", "--log-package-levels=auth=DEBUG"],
    )
    lab.etcd.start()
    lab.etcd.enable_auth("overlayd", PASSWORD, prefix="/coreos.com/network/")
    password_file = lab.folder / "password"
    password_file.write_text(f"{PASSWORD}\n")
    password_file.chmod(0o600)
    mine = CertificatePair(certificate=lab.folder / "host.pem", key=lab.folder / "host.key")
    replace(mine, authority.issue("host"))
    lab.etcd_flags = {
        "etcd-endpoints": ",".join(lab.etcd.endpoints),
        "etcd-cafile": authority.certificate,
        "etcd-certfile": mine.certificate,
        "etcd-keyfile": mine.key,
        "etcd-username": "overlayd",
        "etcd-password-file": password_file,
    }


ARRANGEMENTS = {"one": Lab.start_etcd, "three": three_guarded}
one = pytest.mark.parametrize("lab", ["one"], indirect=True, scope="module")
three = pytest.mark.parametrize("lab", ["three"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with one of these etcd set-ups, and hosts a and b."""
    folder = tmp_path_factory.mktemp(request.param)
    with laboratory(folder, BACKEND, arrange=ARRANGEMENTS[request.param]) as lab:
        lab.host("a")
        lab.host("b")
        yield lab


Undisturbed = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def undisturbed(request: pytest.FixtureRequest, a: Host, b: Host, record_property: Recorder) -> Undisturbed:
    """Assert that during the block no packet between the two is lost, in either direction."""
    # The test's name says what happens.
    what = request.function.__name__.removeprefix("test_").replace("_", " ")

    @contextmanager
    def pinged() -> Iterator[None]:
        subnets = a.subnet, b.subnet
        with pinging(a, b, interval_s=0.02) as there, pinging(b, a, interval_s=0.02) as back:
            yield
        both = Losses(
            sent=there.sent + back.sent, received=there.received + back.received, gap_s=max(there.gap_s, back.gap_s)
        )
        both.fault(what, BACKEND["Type"]).record(record_property)
        assert there.sent > 20
        assert (there.lost, back.lost) == (0, 0)
        assert (a.subnet, b.subnet) == subnets

    return pinged


def check_in_step(lab: Lab, fault: str) -> None:
    """Write the lease of another host, now that etcd answers; the seconds until all kernels have its route."""
    began = time.monotonic()
    taken = {host.subnet for host in lab.hosts}
    subnet = next(one for one in map(peer_subnet, _numbers) if one not in taken)
    number = subnet.network_address.packed[2]
    data = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{number:02x}"}
    lease = {"PublicIP": str(UNDERLAY[number]), "BackendType": "vxlan", "BackendData": data}
    lab.etcd.ctl("put", key(subnet), json.dumps(lease))
    for host in lab.hosts:
        left_s = began + IN_STEP_S - time.monotonic()
        eventually(f"{subnet} is in the kernel of {host.name}", partial(has_route, host, subnet), timeout_s=left_s)
    print(f"in step {time.monotonic() - began:.2f} s after etcd answered: {fault}")  # noqa: T201


def peer_subnet(number: int) -> IPv4Network:
    return IPv4Network(f"10.5.{number}.0/24")


def key(subnet: IPv4Network) -> str:
    return f"{SUBNETS}/{subnet.network_address}-{subnet.prefixlen}"


def has_route(host: Host, subnet: IPv4Network) -> bool:
    return bool(host.run("ip", "route", "show", str(subnet)))


def knows_etcd_is_away(host: Host) -> bool:
    return not host.status()["etcd_connected"]


def wait_until_away(lab: Lab) -> None:
    for host in lab.hosts:
        eventually(f"{host.name} knows that etcd is away", partial(knows_etcd_is_away, host))


def replace(target: CertificatePair, source: CertificatePair) -> None:
    target.certificate.write_bytes(source.certificate.read_bytes())
    target.key.write_bytes(source.key.read_bytes())


@one
def test_an_etcd_that_anybody_may_write_is_a_warning_in_the_status(lab: Lab, a: Host) -> None:
    eventually("a warns", lambda: a.status()["warnings"])
    (warning,) = a.status()["warnings"]
    assert "takes writes from anybody who reaches it" in warning
    done = a.call("status")
    assert warning in done.stdout
    # The warning does not make the host unready.
    assert (done.returncode, a.status()["problems"]) == (0, [])


@three
def test_an_etcd_with_users_and_certificates_is_no_warning(lab: Lab, a: Host) -> None:
    eventually("a has asked", partial(says, a, "asked etcd without a login reads=False writes=False"))
    assert a.status()["warnings"] == []


@one
def test_etcd_is_killed_and_started_again(lab: Lab, undisturbed: Undisturbed) -> None:
    with undisturbed():
        lab.etcd.stop()
        wait_until_away(lab)
        lab.etcd.start()
        check_in_step(lab, "killed")


@one
def test_etcd_is_frozen_and_thawed(lab: Lab, undisturbed: Undisturbed) -> None:
    with undisturbed():
        lab.etcd.freeze()
        try:
            wait_until_away(lab)
        finally:
            lab.etcd.thaw()
        lab.etcd.wait()
        check_in_step(lab, "frozen")


@one
def test_etcd_is_restarted_empty(lab: Lab, a: Host, b: Host, undisturbed: Undisturbed) -> None:
    with undisturbed():
        lab.etcd.stop()
        wait_until_away(lab)
        lab.etcd.lose_data()
        lab.etcd.start()
        lab.configure(BACKEND)
        check_in_step(lab, "emptied")
        for host in (a, b):
            eventually(f"{host.name} has written its lease again", partial(lab.etcd.ctl, "get", key(host.subnet)))


@one
def test_etcd_is_compacted_while_a_host_is_cut_off(lab: Lab, a: Host, undisturbed: Undisturbed) -> None:
    deaf = ["INPUT", "-s", str(a.address), "-p", "tcp", "--dport", "2379", "-j", "DROP"]
    with undisturbed():
        lab.run(["iptables", "-I", *deaf])
        try:
            for value in range(3):
                lab.etcd.ctl("put", "/coreos.com/network/other", str(value))
            lab.etcd.compact()
            eventually("a knows that etcd is away", partial(knows_etcd_is_away, a))
        finally:
            lab.run(["iptables", "-D", *deaf])
        check_in_step(lab, "compacted, and the network cut")


@three
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_the_leader_of_three_members_is_lost(lab: Lab, fault: str, undisturbed: Undisturbed) -> None:
    leader = lab.etcd.leader()
    with undisturbed():
        getattr(leader, fault)()
        try:
            lab.etcd.wait()
            check_in_step(lab, f"leader lost: {fault}")
        finally:
            if leader.frozen:
                leader.thaw()
            lab.etcd.start()
        check_in_step(lab, "leader back")


@three
def test_logins_expire_or_are_forgotten(lab: Lab, a: Host, undisturbed: Undisturbed) -> None:
    with undisturbed():
        clock = lab.etcd.ctl("lease", "grant", "3").split()[1]
        lab.etcd.ctl("put", f"--lease={clock}", "/clock", "1")
        eventually("tokens have expired", lambda: not lab.etcd.ctl("get", "/clock"))
        # A watch goes on without a token. But host a has to send a request, as somebody made its key a reservation.
        lab.etcd.ctl("put", key(a.subnet), lab.etcd.ctl("get", "--print-value-only", key(a.subnet)).strip())
        eventually("a has asked", lambda: a.status()["reserved"], timeout_s=IN_STEP_S)
        check_in_step(lab, "token expired")
        lab.etcd.stop()
        lab.etcd.start()
        check_in_step(lab, "killed, and logins forgotten")


@three
def test_certificates_are_replaced_one_file_after_the_other(lab: Lab, undisturbed: Undisturbed) -> None:
    certificate, private_key = (Path(str(lab.etcd_flags[f"etcd-{name}"])) for name in ("certfile", "keyfile"))
    new = Authority(lab.folder / "ca").issue("host")
    with undisturbed():
        certificate.write_bytes(new.certificate.read_bytes())
        wait_until_both_say(lab, "certificates are not usable")
        check_in_step(lab, "a certificate without its key")
        began = time.monotonic()
        private_key.write_bytes(new.key.read_bytes())
        wait_until_both_say(lab, "connected again, with the new certificates")
        print(f"connected anew {time.monotonic() - began:.2f} s after the key was written")  # noqa: T201
        check_in_step(lab, "new certificates")


def wait_until_both_say(lab: Lab, text: str) -> None:
    for host in lab.hosts:
        eventually(f"{host.name} says it", partial(says, host, text), timeout_s=IN_STEP_S)


def says(host: Host, text: str) -> bool:
    return text in host.log.read_text()


@three
def test_nobody_is_told_the_password_or_a_token(lab: Lab, a: Host, b: Host) -> None:
    secrets = {PASSWORD, *(token for member in lab.etcd.members for token in TOKEN.findall(member.log_text()))}
    assert len(secrets) > 2
    for host in (a, b):
        done = subprocess.run(host.overlayd("check"), capture_output=True, text=True, env=environment(), check=True)
        assert "etcd-username" in done.stdout
        command_line = Path(f"/proc/{host.status()['pid']}/cmdline").read_text()
        assert "etcd-username" in command_line
        said = [done.stdout, done.stderr, command_line, host.log.read_text()]
        said.append((host.run_dir / "status.json").read_text())
        assert not [secret for secret in secrets for one in said if secret in one]
