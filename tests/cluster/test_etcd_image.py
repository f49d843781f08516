"""The image of etcd in one container: its messages about wrong settings, and its health."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker.models.containers import Container

from images.etcd.recipe import USER_ID, VOLUME
from tests.testbed.certificates import Authority, CertificatePair
from tests.testbed.cluster.docker_engine import client, outcome
from tests.testbed.cluster.etcd_image import run, serves

# A second etcd in the container, with TLS.
_TLS = "https://127.0.0.1:3379"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A running etcd, and the folder that it sees as /cases (writable) and as /ro."""

    etcd: Container
    cases: Path
    authority: Authority


@pytest.fixture(scope="module")
def bench(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    cases = tmp_path_factory.mktemp("cases")
    # Only root can enter pytest's folders; the container reaches the folder by the mount.
    cases.chmod(0o755)
    (cases / "own").mkdir()
    os.chown(cases / "own", USER_ID, USER_ID)
    (cases / "others").mkdir()
    volume = client().volumes.create()
    small = {"/small": f"size=8m,uid={USER_ID}"}
    try:
        container = run(base, volume.name, binds=[f"{cases}:/cases", f"{cases}:/ro:ro"], tmpfs=small)
        serves(container)
        # Data such as a stopped etcd leaves, as far as the checks look at it.
        status, said = outcome(
            container, "sh", "-c", "cp -r data /cases/own/copy && cp data.member /cases/own/copy.member"
        )
        assert status == 0, said
        yield Bench(etcd=container, cases=cases, authority=Authority(cases / "ca"))
        container.remove(force=True)
    finally:
        for left in client().containers.list(all=True, filters={"volume": volume.name}):
            left.remove(force=True)
        volume.remove()


def tls_files(bench: Bench, name: str, *alternatives: str, mode: int = 0o640, group: int = USER_ID) -> dict[str, str]:
    """Variables for a new certificate of the CA; its key has this mode and group."""
    pair = bench.authority.issue(name, *alternatives)
    pair.key.chmod(mode)
    os.chown(pair.key, 0, group)
    return {
        "ETCD_CERT_FILE": f"/cases/ca/{pair.certificate.name}",
        "ETCD_KEY_FILE": f"/cases/ca/{pair.key.name}",
        "ETCD_TRUSTED_CA_FILE": "/cases/ca/ca.pem",
    }


def roots_key(bench: Bench) -> dict[str, str]:
    return tls_files(bench, "roots", mode=0o600, group=0)


def strange_key(bench: Bench) -> dict[str, str]:
    other = tls_files(bench, "other-key")
    return tls_files(bench, "own-key") | {"ETCD_KEY_FILE": other["ETCD_KEY_FILE"]}


def empty_key(bench: Bench) -> dict[str, str]:
    (bench.cases / "empty").touch()
    return tls_files(bench, "empty-key") | {"ETCD_KEY_FILE": "/cases/empty"}


def closed_folder(bench: Bench) -> dict[str, str]:
    closed = bench.cases / "closed"
    closed.mkdir(mode=0o700)
    return tls_files(bench, "closed") | {"ETCD_CERT_FILE": "/cases/closed/cert.pem"}


def plain_urls(bench: Bench) -> dict[str, str]:
    return tls_files(bench, "plain") | {"ETCD_LISTEN_CLIENT_URLS": "http://0.0.0.0:2379"}


def no_certificate(bench: Bench) -> dict[str, str]:
    return tls_files(bench, "no-certificate") | {"ETCD_TRUSTED_CA_FILE": "/cases/ca/no-certificate.key"}


NEW = {"ETCD_DATA_DIR": "/cases/own/new"}
REFUSED: dict[str, tuple[Callable[[Bench], dict[str, str]] | dict[str, str], str, str]] = {
    "key of root": (
        roots_key,
        "may not read /cases/ca/roots.key (owner 0:0, mode 0600): Permission",
        "chgrp 2379 FILE",
    ),
    "key of another certificate": (strange_key, "other-key.key is not the key of /cases/ca/own-key.pem", "fits"),
    "empty key": (empty_key, "ETCD_KEY_FILE: /cases/empty is empty", "write the PEM file again"),
    "closed folder": (closed_folder, "may not enter /cases/closed (owner 0:0, mode 0700)", "chmod a+x"),
    "no certificate for a CA": (no_certificate, "ETCD_TRUSTED_CA_FILE: /cases/ca/no-certificate.key holds no", "PEM"),
    "no such file": (
        {"ETCD_CERT_FILE": "/tls/cert.pem", "ETCD_KEY_FILE": "/cases"},
        "ETCD_CERT_FILE is /tls/cert.pem, which is not there",
        "-v FOLDER:/tls:ro",
    ),
    "folder for a file": (
        {"ETCD_CERT_FILE": "/cases/own", "ETCD_KEY_FILE": "/cases"},
        "ETCD_CERT_FILE is /cases/own, which is a folder",
        "not on the host",
    ),
    "TLS on a plain port": (
        plain_urls,
        "ETCD_LISTEN_CLIENT_URLS has http://0.0.0.0:2379: etcd would speak plain",
        "https://",
    ),
    "address of nobody": (
        {"ETCD_ADVERTISE_CLIENT_URLS": "http://0.0.0.0:2379"},
        "an address that nobody has",
        "by which others reach",
    ),
    "name of no member": (
        {"ETCD_NAME": "x", "ETCD_INITIAL_CLUSTER": "a=http://198.18.1.1:2380"},
        "ETCD_NAME is 'x', and ETCD_INITIAL_CLUSTER names a",
        "own name",
    ),
    "folder of root": (
        {"ETCD_DATA_DIR": "/cases/others/data"},
        "etcd runs as user 2379 and group 2379, and /cases/others belongs to 0:0, mode 0755",
        "chown -R 2379:2379 FOLDER",
    ),
    "read-only volume": ({"ETCD_DATA_DIR": "/ro/own/new"}, "/ro/own is read-only", "without :ro"),
    "full volume": ({"ETCD_DATA_DIR": "/small/data"}, "/small has 8 MB left", "make room"),
    "volume in use": ({}, f"another etcd uses {VOLUME}/data", "stop the other container"),
    "volume of another member": (
        {"ETCD_DATA_DIR": "/cases/own/copy", "ETCD_NAME": "other"},
        "/cases/own/copy was begun with ETCD_NAME=default, and ETCD_NAME is other now",
        "this member's own volume",
    ),
    "volume of another cluster": (
        {"ETCD_DATA_DIR": "/cases/own/copy", "ETCD_INITIAL_CLUSTER_TOKEN": "other"},
        "was begun with ETCD_INITIAL_CLUSTER_TOKEN=etcd-cluster",
        "this member's own volume",
    ),
    "data where none is looked for": (
        {"ETCD_DATA_DIR": "/cases/own/copy/data"},
        "/cases/own/copy has etcd's data in it",
        "set ETCD_DATA_DIR=/cases/own/copy",
    ),
    "port in use": (NEW, "ETCD_LISTEN_CLIENT_URLS has http://0.0.0.0:2379: something listens there", "--network host"),
    "address of another": (
        NEW | {"ETCD_LISTEN_CLIENT_URLS": "http://198.18.1.1:2379"},
        "this container has no such address",
        "0.0.0.0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_reported_before_etcd_starts(bench: Bench, case: str) -> None:
    given, what, remedy = REFUSED[case]
    status, said = outcome(bench.etcd, "etcd-start", **(given(bench) if callable(given) else given))
    assert (status, said.count("\n  ")) == (2, said.count("etcd-start: error: ")), said
    assert what in said
    assert remedy in said
    assert not (bench.cases / "own" / "new").exists()


def test_all_wrong_files_are_reported_at_once(bench: Bench) -> None:
    files = {"ETCD_CERT_FILE": "/no/cert", "ETCD_KEY_FILE": "/no/key", "ETCD_TRUSTED_CA_FILE": "/no/ca"}
    status, said = outcome(bench.etcd, "etcd-start", **files)
    assert status == 2
    assert all(f"{name} is {path}" in said for name, path in files.items())


def test_frozen_etcd_is_unhealthy(bench: Bench) -> None:
    assert outcome(bench.etcd, "etcd-health")[0] == 0
    bench.etcd.kill("SIGSTOP")
    try:
        status, said = outcome(bench.etcd, "etcd-health")
        assert (status, said) == (1, "unhealthy: http://0.0.0.0:2379 does not answer within 2.3 s\n")
    finally:
        bench.etcd.kill("SIGCONT")
    serves(bench.etcd)


def test_a_container_without_etcd_is_unhealthy(bench: Bench) -> None:
    status, said = outcome(bench.etcd, "etcd-health", ETCD_LISTEN_CLIENT_URLS="http://127.0.0.1:4379")
    assert (status, said) == (1, "unhealthy: http://127.0.0.1:4379: Connection refused\n")


@pytest.fixture(scope="module")
def tls(bench: Bench) -> dict[str, str]:
    """Variables of a second etcd with TLS, which demands certificates and a login."""
    variables = tls_files(bench, "server", "IP:198.18.1.11", "IP:127.0.0.1") | {
        "ETCD_DATA_DIR": "/cases/own/tls",
        "ETCD_LISTEN_CLIENT_URLS": _TLS,
        "ETCD_ADVERTISE_CLIENT_URLS": "https://198.18.1.11:2379",
        "ETCD_LISTEN_PEER_URLS": "http://127.0.0.1:3380",
    }
    bench.etcd.exec_run(["etcd-start"], environment=variables, detach=True)
    serves(bench.etcd, **variables)
    shown = {"ETCDCTL_CACERT": "ETCD_TRUSTED_CA_FILE", "ETCDCTL_CERT": "ETCD_CERT_FILE", "ETCDCTL_KEY": "ETCD_KEY_FILE"}
    login = {name: variables[other] for name, other in shown.items()} | {"ETCDCTL_ENDPOINTS": _TLS}
    for words in ("user add root:top-secret", "user grant-role root root", "auth enable"):
        status, said = outcome(bench.etcd, "etcdctl", *words.split(), **login)
        assert status == 0, said
    # This etcd ends with its container.
    return variables


def test_etcd_with_tls_certificates_and_a_login_is_healthy(bench: Bench, tls: dict[str, str]) -> None:
    status, said = outcome(bench.etcd, "etcd-health", ETCDCTL_USER="root:top-secret", **tls)
    assert (status, said) == (0, "healthy: https://198.18.1.11:2379 serves (TLS)\n")


def _replaced(bench: Bench, name: str, pair: CertificatePair) -> None:
    """Replace a certificate and key, as an administrator does who renews it."""
    for source, suffix in ((pair.certificate, "pem"), (pair.key, "key")):
        shutil.copyfile(source, bench.cases / "ca" / f"{name}.{suffix}")


CERTIFICATES: dict[str, tuple[Callable[[Authority], CertificatePair], str]] = {
    "expired": (
        lambda authority: authority.issue("expired", "IP:198.18.1.11", days_ago=9),
        "a client that dials https://198.18.1.11:2379 refuses etcd's certificate: certificate has expired",
    ),
    "of another host": (
        lambda authority: authority.issue("another", "IP:198.18.1.12"),
        "refuses etcd's certificate: IP address mismatch, certificate is not valid for '198.18.1.11'",
    ),
    "of another CA": (
        lambda authority: Authority(authority.certificate.parent / "stranger").issue("strange", "IP:198.18.1.11"),
        "refuses etcd's certificate: unable to get local issuer certificate",
    ),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_etcd_whose_certificate_no_client_takes_is_unhealthy(bench: Bench, tls: dict[str, str], case: str) -> None:
    issue, what = CERTIFICATES[case]
    kept = CertificatePair(certificate=bench.cases / "kept.pem", key=bench.cases / "kept.key")
    shutil.copyfile(bench.cases / "ca/server.pem", kept.certificate)
    shutil.copyfile(bench.cases / "ca/server.key", kept.key)
    _replaced(bench, "server", issue(bench.authority))
    try:
        status, said = outcome(bench.etcd, "etcd-health", **tls)
        assert status == 1
        assert said.startswith("unhealthy: ")
        assert what in said
        # At the start this is a warning only, since etcd itself reads renewed files.
        elsewhere = tls | NEW | {"ETCD_LISTEN_CLIENT_URLS": "https://198.18.1.1:2379"}
        assert (
            f"warning: ETCD_ADVERTISE_CLIENT_URLS says {tls['ETCD_ADVERTISE_CLIENT_URLS']}, where "
            in (outcome(bench.etcd, "etcd-start", **elsewhere)[1])
        )
    finally:
        _replaced(bench, "server", kept)
    assert outcome(bench.etcd, "etcd-health", **tls)[0] == 0


def test_a_client_certificate_that_etcd_refuses_is_unhealthy(bench: Bench, tls: dict[str, str]) -> None:
    pair = Authority(bench.cases / "ca" / "clients").issue("client")
    pair.key.chmod(0o644)
    where = "/cases/ca/clients"
    shown = {"ETCDCTL_CERT": f"{where}/{pair.certificate.name}", "ETCDCTL_KEY": f"{where}/{pair.key.name}"}
    status, said = outcome(bench.etcd, "etcd-health", **shown, **tls)
    assert (status, said) == (
        1,
        "unhealthy: TLS with https://198.18.1.11:2379 fails: refused by the other side: bad certificate\n",
    )


def test_a_certificate_that_etcd_made_for_itself_is_pinned(bench: Bench) -> None:
    variables = {
        "ETCD_AUTO_TLS": "true",
        "ETCD_DATA_DIR": "/cases/own/auto",
        "ETCD_LISTEN_CLIENT_URLS": "https://0.0.0.0:5379",
        "ETCD_LISTEN_PEER_URLS": "http://127.0.0.1:5380",
    }
    bench.etcd.exec_run(["etcd-start"], environment=variables, detach=True)
    serves(bench.etcd, **variables)
    # The certificate of another etcd is not accepted.
    status, said = outcome(bench.etcd, "etcd-health", **variables | {"ETCD_LISTEN_CLIENT_URLS": _TLS})
    assert status == 1, said
