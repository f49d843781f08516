"""What doctor says of etcd over TLS: a real etcd, real certificates, one thing wrong at a time."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from overlayd.doctor.facts import EndpointFacts, EtcdFacts
from overlayd.doctor.gather.etcd import read_etcd
from overlayd.lib.x509 import read_pem
from overlayd.settings import Settings
from tests.testbed.polling import eventually
from tests.testbed.ports import free_ports

_CA_CONFIG = """\
[ca]
default_ca = here
[here]
new_certs_dir = {folder}
database = {folder}/index
serial = {folder}/serial
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""


class Authority:
    """A CA that also signs for the past and the future, which `openssl req -x509` does not."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.certificate = folder, folder / "ca.pem"
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        (folder / "config").write_text(_CA_CONFIG.format(folder=folder))
        _openssl(
            "req", "-x509", *_NEW, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.pem", "-subj", "/CN=test CA"
        )

    def issue(self, name: str, names: str, *, start: timedelta, end: timedelta) -> tuple[Path, Path]:
        """A certificate and its key, valid from `start` to `end` from now."""
        key, request, made = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        _openssl(
            *("req", "-new", *_NEW, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName={names}", "-addext", "extendedKeyUsage=serverAuth,clientAuth"),
        )
        now = datetime.now(UTC)
        _openssl(
            *("ca", "-batch", "-notext", "-config", f"{self.folder}/config", "-in", str(request), "-out", str(made)),
            *("-cert", str(self.certificate), "-keyfile", f"{self.folder}/ca.key"),
            *("-startdate", f"{now + start:%Y%m%d%H%M%SZ}", "-enddate", f"{now + end:%Y%m%d%H%M%SZ}"),
        )
        return made, key


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
_DAY = timedelta(days=1)
VALID = {"start": -_DAY, "end": 30 * _DAY}
EXPIRED = {"start": -9 * _DAY, "end": -_DAY}
FUTURE = {"start": _DAY, "end": 9 * _DAY}


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA of all tests here."""
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def client(authority: Authority) -> tuple[Path, Path]:
    """This host's certificate and key."""
    return authority.issue("host", "DNS:host", **VALID)


@contextmanager
def etcd(folder: Path, authority: Authority, pair: tuple[Path, Path]) -> Iterator[str]:
    """An etcd that asks for client certificates; its endpoint."""
    ports = free_ports(["127.0.0.1"] * 2)
    endpoint, peer = f"https://localhost:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    command = [
        *("etcd", "--name", "one", "--data-dir", str(folder / "data")),
        *("--listen-client-urls", f"https://127.0.0.1:{ports[0]}", "--advertise-client-urls", endpoint),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
        *("--cert-file", str(pair[0]), "--key-file", str(pair[1])),
        *("--client-cert-auth", "--trusted-ca-file", str(authority.certificate)),
    ]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually("etcd listens", lambda: _listens(ports[0]))
        yield endpoint
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


def look(endpoint: str, authority: Authority, pair: tuple[Path, Path] | None) -> tuple[EndpointFacts, EtcdFacts]:
    """What doctor sees with these files."""
    settings = Settings(
        etcd_endpoints=(endpoint,),
        etcd_cafile=str(authority.certificate),
        etcd_certfile=str(pair[0]) if pair else None,
        etcd_keyfile=str(pair[1]) if pair else None,
    )
    found, _config, _leases = read_etcd(settings)
    return found.endpoints[0], found


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """A running etcd and the files it reads anew for every handshake."""
    pair = authority.issue("server", "DNS:localhost,IP:127.0.0.1", **VALID)
    with etcd(tmp_path_factory.mktemp("etcd"), authority, pair) as endpoint:
        yield endpoint, pair


@contextmanager
def shown(pair: tuple[Path, Path], other: tuple[Path, Path]) -> Iterator[None]:
    """The server shows another certificate for a while."""
    kept = [path.read_bytes() for path in pair]
    try:
        for path, replacement in zip(pair, other, strict=True):
            shutil.copyfile(replacement, path)
        yield
    finally:
        for path, content in zip(pair, kept, strict=True):
            path.write_bytes(content)


Server = tuple[str, tuple[Path, Path]]
Pair = tuple[Path, Path]


def test_when_all_is_well_the_servers_clock_is_known(server: Server, authority: Authority, client: Pair) -> None:
    endpoint, found = look(server[0], authority, client)
    assert endpoint.problem is None
    assert endpoint.clock_offset_s is not None
    assert abs(endpoint.clock_offset_s) < 5
    assert found.problem is None
    assert [file.problem for file in found.files] == [None, None, None]
    assert found.config_problem is not None  # nobody wrote one into this etcd


@pytest.mark.parametrize(
    ("names", "dates", "words"),
    [
        ("DNS:localhost", EXPIRED, "has expired (it is for localhost"),
        ("DNS:localhost", FUTURE, "is not valid yet"),
        ("DNS:etcd9,IP:192.0.2.7", VALID, "is not for localhost (it is for etcd9, 192.0.2.7"),
    ],
    ids=["expired", "future", "name"],
)
def test_a_server_certificate_that_is_wrong_is_described(
    server: Server, authority: Authority, client: Pair, *, names: str, dates: dict[str, timedelta], words: str
) -> None:
    with shown(server[1], authority.issue("other", names, **dates)):
        endpoint, found = look(server[0], authority, client)
    assert words in str(endpoint.problem)
    assert found.problem is not None


def test_another_ca_is_named(server: Server, client: Pair, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    endpoint, _found = look(server[0], stranger, client)
    assert f"not signed by the CA in {stranger.certificate}" in str(endpoint.problem)


def test_a_client_certificate_that_the_server_refuses(server: Server, authority: Authority, tmp_path: Path) -> None:
    assert "set etcd-certfile" in str(look(server[0], authority, None)[0].problem)
    expired = authority.issue("old", "DNS:host", **EXPIRED)
    endpoint, found = look(server[0], authority, expired)
    assert "does not accept this host's certificate" in str(endpoint.problem)
    (certificate,) = found.files[1].certificates
    assert (certificate.subject, certificate.not_after < datetime.now(UTC)) == ("old", True)


def test_a_key_of_another_certificate_and_files_that_are_none(
    server: Server, authority: Authority, client: Pair, tmp_path: Path
) -> None:
    other = authority.issue("another", "DNS:host", **VALID)
    assert "does not belong to" in str(look(server[0], authority, (client[0], other[1]))[1].files[-1].problem)
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    assert "no certificate" in str(look(server[0], authority, (empty, client[1]))[1].files[1].problem)
    assert "no private key" in str(look(server[0], authority, (client[0], empty))[1].files[2].problem)
    missing = look(server[0], authority, (tmp_path / "missing.pem", client[1]))[1].files[1]
    assert "No such file" in str(missing.problem)


def test_http_to_a_server_of_https(server: Server, authority: Authority, client: Pair) -> None:
    found, _config, _leases = read_etcd(Settings(etcd_endpoints=(server[0].replace("https", "http"),)))
    assert found.endpoints[0].problem is not None


def test_dates_and_names_are_read_as_openssl_prints_them(authority: Authority, client: Pair) -> None:
    (certificate,) = read_pem(client[0].read_text())
    printed = subprocess.run(
        ["openssl", "x509", "-in", str(client[0]), "-noout", "-enddate", "-dateopt", "iso_8601"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == f"notAfter={certificate.not_after:%Y-%m-%d %H:%M:%SZ}"
    assert (certificate.subject, certificate.names) == ("host", ("host",))
    both = read_pem(client[0].read_text() + authority.certificate.read_text())
    assert [one.subject for one in both] == ["host", "test CA"]
    assert read_pem("no certificate at all") == ()


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_certificate_that_is_cut_short_is_refused(client: Pair, cut: int) -> None:
    first, *body, last = client[0].read_text().strip().splitlines()
    text = "".join(body)
    broken = "\n".join([first, text[: (len(text) - cut) // 4 * 4], last])
    with pytest.raises(ValueError, match=r"cut short|not a certificate|base64"):
        read_pem(broken)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
