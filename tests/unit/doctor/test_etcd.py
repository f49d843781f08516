"""What doctor says of etcd: by the daemon's own connection, each server by its own name, and in words that help."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from overlayd.doctor.checks import etcd as checks
from overlayd.doctor.facts import EtcdFacts
from overlayd.doctor.finding import Finding, State
from overlayd.doctor.gather.etcd import read_etcd
from overlayd.settings import Settings
from tests.testbed.certificates import Authority
from tests.testbed.etcd import Etcd
from tests.testbed.polling import eventually
from tests.testbed.ports import free_ports
from tests.unit.doctor.values import WELL
from tests.unit.store.conftest import PASSWORD, serving
from tests.unit.store.test_registry import PREFIX
from tests.unit.store.test_rights import CONFIG_RIGHT, HOSTS_RIGHT, SUBNETS_RIGHT


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA of all tests here."""
    return Authority(tmp_path_factory.mktemp("ca"))


def look(endpoints: Sequence[str], **settings: Any) -> EtcdFacts:
    found, _config, _leases = read_etcd(Settings(etcd_endpoints=tuple(endpoints), etcd_prefix=PREFIX, **settings))
    return found


def store(seen: EtcdFacts) -> Finding:
    return checks.store(replace(WELL, etcd=seen))


def test_each_server_is_held_to_its_own_name(tmp_path: Path, authority: Authority) -> None:
    pairs = [authority.issue("one", "DNS:localhost,IP:127.0.0.1"), authority.issue("two", "IP:127.0.0.2")]
    with serving(
        tmp_path, hosts=["127.0.0.1", "127.0.0.2"], certificates=pairs, authority=authority.certificate
    ) as etcd:
        first, second = etcd.endpoints
        named = first.replace("127.0.0.1", "localhost")
        seen = look([named, second], etcd_cafile=str(authority.certificate))
        assert [endpoint.problem for endpoint in seen.endpoints] == [None, None]
        assert [endpoint.clock_offset_s is not None for endpoint in seen.endpoints] == [True, True]
        wrong = second.replace("127.0.0.2", "localhost")
        assert "no connection" in str(look([named, wrong], etcd_cafile=str(authority.certificate)).endpoints[1].problem)


def test_without_a_ca_the_systems_own_count(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.issue("system", "IP:127.0.0.1")
    with serving(tmp_path, certificates=[pair], authority=authority.certificate) as etcd:
        assert "set etcd-cafile" in str(look(etcd.endpoints).endpoints[0].problem)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        seen = look(etcd.endpoints)
        assert (seen.endpoints[0].problem, seen.problem) == (None, None)


def test_a_certificate_with_a_common_name_alone_has_no_subject_alt_name(tmp_path: Path, authority: Authority) -> None:
    etcd = Etcd(tmp_path, certificates=[authority.issue("127.0.0.1")], authority=authority.certificate)
    etcd.start(wait=False)
    try:
        eventually(
            "it is named",
            lambda: (
                "has no subjectAltName, which must hold 127.0.0.1"
                in str(look(etcd.endpoints, etcd_cafile=str(authority.certificate)).endpoints[0].problem)
            ),
        )
    finally:
        etcd.stop()


@contextmanager
def learner(etcd: Etcd, folder: Path) -> Iterator[str]:
    """A learner beside one member; its endpoint."""
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(["127.0.0.1"] * 2))
    etcd.ctl("member", "add", "learner", "--learner", f"--peer-urls={peer}")
    (one,) = etcd.members
    argv = ["etcd", "--name=learner", f"--data-dir={folder}/learner", "--initial-cluster-state=existing"]
    argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    argv += [f"--initial-cluster={one.name}={one.peer_url},learner={peer}"]
    with (folder / "learner.log").open("wb") as log:
        running = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield client
    finally:
        running.kill()
        running.wait()


def test_a_learner_is_called_one_and_another_server_is_used(tmp_path: Path) -> None:
    with serving(tmp_path) as etcd, learner(etcd, tmp_path) as endpoint:
        eventually("it is up", lambda: "for learner" in str(look([endpoint]).endpoints[0].problem))
        seen = look([endpoint])
        finding = checks.endpoints(replace(WELL, etcd=seen))
        assert (finding.state, "name the voting members" in str(finding.advice)) == (State.PROBLEM, True)
        assert "name the voting members" in str(store(seen).advice)
        assert look([endpoint, etcd.endpoint]).problem is None


RIGHTS = {"config": CONFIG_RIGHT, "subnets": SUBNETS_RIGHT, "hosts": HOSTS_RIGHT}


def test_a_right_that_the_role_lacks_is_named_and_the_advice_grants_it(tmp_path: Path) -> None:
    with serving(tmp_path) as etcd:
        etcd.enable_auth("overlayd", PASSWORD, prefix="/other/")
        for right in RIGHTS.values():
            etcd.ctl("role", "grant-permission", "network", *right)
        before = etcd.ctl("get", "", "--from-key", "--write-out=fields")

        def now() -> Finding:
            return store(look(etcd.endpoints, etcd_username="overlayd", etcd_password=PASSWORD))

        assert now().state is State.OK
        for name, right in RIGHTS.items():
            etcd.ctl("role", "revoke-permission", "network", *[word for word in right if "read" not in word])
            finding = now()
            assert finding.state is (State.WARNING if name == "hosts" else State.PROBLEM)
            assert right[-1] in finding.found
            paste = str(finding.advice).rpartition("etcdctl ")[2].replace("ROLE", "network")
            etcd.ctl(*paste.split())
            assert now().state is State.OK
        etcd.ctl("role", "revoke-permission", "network", "--prefix=true", f"{PREFIX}/subnets/")
        etcd.ctl("role", "grant-permission", "network", "--prefix=true", "read", f"{PREFIX}/subnets/")
        assert f"readwrite {PREFIX}/subnets/" in now().found
        assert etcd.ctl("get", "", "--from-key", "--write-out=fields") == before


def test_who_has_no_lease_is_told_to_start_a_daemon_only_where_none_runs() -> None:
    without = replace(WELL, network=replace(WELL.network, subnet=None))  # type: ignore[type-var]
    waits = replace(without, daemon=replace(WELL.daemon, state="waiting", problems=("etcd has no room",)))
    assert checks.lease(waits).remedy is None
    assert "etcd has no room" in str(checks.lease(waits).advice)
    assert (
        checks.lease(replace(without, daemon=replace(WELL.daemon, running=False))).remedy == "systemctl start overlayd"
    )


def test_renewed_certificates_need_no_restart() -> None:
    for days in (-1, 3):
        files = tuple(
            replace(
                file,
                certificates=tuple(
                    replace(one, not_after=WELL.host.now + timedelta(days=days)) for one in file.certificates
                ),
            )
            for file in WELL.etcd.files
        )
        finding = checks.tls_files(replace(WELL, etcd=replace(WELL.etcd, files=files)))
        assert finding is not None
        assert "by itself" in str(finding.advice)
        assert "restart" not in str(finding.advice)
