"""What the etcd image looks at before etcd starts, and its health check: the parts that need no container."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd_container import cluster, data, health, settings, trust
from tests.testbed.certificates import Authority, CertificatePair

A, B, C = (f"https://198.18.1.{number}:2380" for number in (11, 12, 13))
THREE = {"ETCD_NAME": "a", "ETCD_INITIAL_CLUSTER": f"a={A},b={B},c={C}"}
TLS = {"ETCD_CERT_FILE": "c", "ETCD_KEY_FILE": "k", "ETCD_PEER_CERT_FILE": "c", "ETCD_PEER_KEY_FILE": "k"}


def complete(**given: str) -> dict[str, str]:
    return settings.complete(given, "198.18.1.11")


def test_a_single_node_listens_to_clients_everywhere_and_to_peers_nowhere() -> None:
    found = complete()
    assert found == {
        "ETCD_NAME": "default",
        "ETCD_DATA_DIR": "/var/lib/etcd/data",
        "ETCD_LISTEN_CLIENT_URLS": "http://0.0.0.0:2379",
        "ETCD_ADVERTISE_CLIENT_URLS": "http://198.18.1.11:2379",
    }
    assert not settings.check(found)


def test_certificates_make_the_defaults_encrypted_and_three_nodes_listen_to_peers() -> None:
    found = complete(**THREE, **TLS)
    assert found["ETCD_LISTEN_CLIENT_URLS"] == "https://0.0.0.0:2379"
    assert found["ETCD_ADVERTISE_CLIENT_URLS"] == "https://198.18.1.11:2379"
    assert found["ETCD_LISTEN_PEER_URLS"] == "https://0.0.0.0:2380"
    assert found["ETCD_INITIAL_ADVERTISE_PEER_URLS"] == A
    assert not settings.check(found)


def test_what_was_given_stays_and_what_was_given_empty_was_not() -> None:
    found = complete(ETCD_NAME="x", ETCD_DATA_DIR="", ETCD_LISTEN_CLIENT_URLS="http://127.0.0.1:1", OTHER="")
    assert (found["ETCD_NAME"], found["ETCD_DATA_DIR"], found["OTHER"]) == ("x", settings.DATA, "")
    assert found["ETCD_LISTEN_CLIENT_URLS"] == "http://127.0.0.1:1"


def test_a_socket_of_a_file_is_left_to_etcd() -> None:
    listen = "unix:///run/etcd.sock:0,http://127.0.0.1:2379"
    assert not settings.check(complete(ETCD_LISTEN_CLIENT_URLS=listen))
    assert [str(url) for url in settings.urls({"X": listen}, "X")] == ["http://127.0.0.1:2379"]


def test_a_configuration_file_is_etcds_business() -> None:
    assert complete(ETCD_CONFIG_FILE="/etc/etcd.yaml") == {"ETCD_CONFIG_FILE": "/etc/etcd.yaml"}
    assert not settings.check({"ETCD_CONFIG_FILE": "/etc/etcd.yaml"})


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"ETCD_CERT_FILE": "c"}, "ETCD_CERT_FILE is given, and ETCD_KEY_FILE is not"),
        ({"ETCD_PEER_KEY_FILE": "k"}, "ETCD_PEER_KEY_FILE is given, and ETCD_PEER_CERT_FILE is not"),
        ({"ETCD_LISTEN_CLIENT_URLS": "https://0.0.0.0:2379"}, "and there is no ETCD_CERT_FILE"),
        ({"ETCD_LISTEN_CLIENT_URLS": "http://etcd1:2379"}, "etcd listens on addresses, not names"),
        ({"ETCD_LISTEN_CLIENT_URLS": "0.0.0.0:2379"}, "is not of the form http://HOST:PORT"),
        ({"ETCD_ADVERTISE_CLIENT_URLS": "http://198.18.1.11"}, "is not of the form http://HOST:PORT"),
        ({"ETCD_ADVERTISE_CLIENT_URLS": "http://198.18.1.11:99999"}, "out of range"),
        ({"ETCD_ADVERTISE_CLIENT_URLS": "http://[::]:2379"}, "an address that nobody has"),
        ({"ETCD_CLIENT_CERT_AUTH": "true", **TLS}, "ETCD_CLIENT_CERT_AUTH is on, and there is no ETCD_TRUSTED_CA_FILE"),
        ({**THREE, "ETCD_NAME": "d"}, "ETCD_NAME is 'd', and ETCD_INITIAL_CLUSTER names a, b, c"),
        ({**THREE, "ETCD_INITIAL_CLUSTER_STATE": "old"}, "ETCD_INITIAL_CLUSTER_STATE='old'"),
        ({**THREE, "ETCD_INITIAL_CLUSTER": f"a={A},{B}"}, f"ETCD_INITIAL_CLUSTER: '{B}'"),
        ({**THREE, "ETCD_INITIAL_ADVERTISE_PEER_URLS": B}, f"gives a {A}, and ETCD_INITIAL_ADVERTISE_PEER_URLS says"),
        ({**THREE, **TLS, "ETCD_LISTEN_PEER_URLS": "http://0.0.0.0:2380"}, "etcd would speak plain text"),
    ],
)
def test_a_wrong_variable_is_named(wrong: dict[str, str], what: str) -> None:
    found = settings.check(complete(**({"ETCD_PEER_AUTO_TLS": "true"} | wrong)))
    assert [problem for problem in found if what in problem.what and problem.remedy], found


@given(st.dictionaries(st.sampled_from([*THREE, *TLS, "ETCD_LISTEN_CLIENT_URLS"]), st.text(max_size=40)))
def test_no_variable_is_too_strange_to_be_looked_at(wrong: dict[str, str]) -> None:
    assert all(problem.what and problem.remedy for problem in settings.check(complete(**wrong)))


OURS = data.Identity(member=1, cluster=7)


def answer(*members: dict[str, object], cluster_id: int = 7) -> cluster.Answer:
    return cluster.Answer(B, cluster_id, list(members))


def member(number: int, url: str, *, ran: bool = True) -> dict[str, object]:
    # As etcd's peer port lists them; one of a cluster that just begins has its name already.
    return {"id": number, "name": "x", "peerURLs": [url], "clientURLs": ["https://x:1"] if ran else []}


ALL = (member(1, A), member(2, B), member(3, C))
EXISTING = THREE | {"ETCD_INITIAL_CLUSTER_STATE": "existing"}


@pytest.mark.parametrize(
    ("given", "said", "ours", "what"),
    [
        (THREE, answer(*ALL), OURS, None),
        (THREE, answer(member(1, A, ran=False), *ALL[1:]), None, None),
        (EXISTING, answer(member(1, A, ran=False), *ALL[1:]), None, None),
        (EXISTING, answer(*ALL), OURS, None),
        (THREE, answer(*ALL, cluster_id=8), OURS, "the data is of cluster 7, and the member at"),
        (THREE, answer(*ALL[1:]), OURS, "no longer knows the member 1"),
        (THREE, answer(*ALL), None, "the cluster knows a (member 1), and its data is not on this volume"),
        (EXISTING, answer(*ALL[1:]), None, "knows no member at"),
        (EXISTING, answer(*ALL[:2]), None, f"has {C} too much"),
        (EXISTING, answer(*ALL, member(4, "https://d:1")), None, "it lacks https://d:1"),
    ],
)
def test_what_the_others_say_is_judged(
    given: dict[str, str], said: cluster.Answer, ours: data.Identity | None, what: str | None
) -> None:
    found = list(cluster.judge(complete(**given), said, ours))
    assert [what in problem.what for problem in found if what] == ([True] if what else [])
    assert what or not found


def test_whose_data_it_is_can_be_read_from_a_real_log() -> None:
    head = bytes.fromhex(
        "0400000000000084"
        "0804100000000000"
        "2000000000000000"
        "080110fcb588d4091a1608fbfa8ba392e69eebdd0110b9ae"
        "c4abb989e5f7a701"
        "0e00000000000082"
    )
    # Written by etcd 3.4.23, which called them member ddd67b312462fd7b of cluster a7ef944b95711739.
    assert data.parse_identity(head) == data.Identity(0xDDD67B312462FD7B, 0xA7EF944B95711739)


@given(st.binary(max_size=80))
def test_no_log_is_too_damaged_to_be_looked_at(head: bytes) -> None:
    try:
        found = data.parse_identity(head)
    except ValueError:
        return
    assert found is None or found.member >= 0


@pytest.mark.parametrize(
    ("status", "text", "what"),
    [
        (200, b'{"health":"true"}', None),
        (200, b'{"health":"true","reason":""}', None),
        (503, b'{"health":"false","reason":"RAFT NO LEADER"}', "RAFT NO LEADER"),
        (503, b'{"health":"false"}', "no quorum, or an alarm"),
        (200, b'{"health":"false"}', "no quorum, or an alarm"),
        (200, b"<html>", "status 200, and not as etcd does"),
        (404, b"", "status 404, and not as etcd does"),
    ],
)
def test_what_etcd_says_of_its_health(status: int, text: bytes, what: str | None) -> None:
    said = health.judge(status, text)
    assert said is None if what is None else what in str(said)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def side(pair: CertificatePair, authority: Path | None) -> dict[str, str]:
    found = {"ETCD_CERT_FILE": str(pair.certificate), "ETCD_KEY_FILE": str(pair.key)}
    return found | ({"ETCD_TRUSTED_CA_FILE": str(authority)} if authority else {})


def rehearsed(variables: dict[str, str], host: str) -> str | None:
    files = settings.tls(variables, "CLIENT")
    return trust.rehearse(trust.server_context(files), trust.client_context(variables, "CLIENT"), host)


@pytest.mark.parametrize("asks", [True, False], ids=["asks for certificates", "asks for none"])
@pytest.mark.parametrize(
    ("host", "refused"),
    [("198.18.1.11", None), ("etcd1", None), ("198.18.1.12", "IP address mismatch"), ("etcd2", "Hostname mismatch")],
)
def test_a_handshake_in_memory_tells_whether_clients_take_the_name(
    authority: Authority, asks: bool, host: str, refused: str | None
) -> None:
    pair = authority.issue("etcd1", "IP:198.18.1.11", "DNS:etcd1")
    said = rehearsed(side(pair, authority.certificate if asks else None), host)
    assert said is None if refused is None else refused in str(said)


def test_a_server_certificate_that_is_none_for_clients_is_told(authority: Authority, tmp_path: Path) -> None:
    pair = CertificatePair(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    words += ["-subj", "/CN=x", "-addext", "subjectAltName=IP:198.18.1.11", "-addext", "extendedKeyUsage=serverAuth"]
    words += ["-CA", str(authority.certificate), "-CAkey", str(authority.certificate.with_name("ca.key"))]
    words += ["-keyout", str(pair.key), "-out", str(pair.certificate), "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(words, check=True, capture_output=True)
    assert rehearsed(side(pair, None), "198.18.1.11") is None
    assert rehearsed(side(pair, authority.certificate), "198.18.1.11") == "unsuitable certificate purpose"


def test_a_key_with_a_pass_phrase_is_an_error_and_no_question(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("locked")
    locked = tmp_path / "locked.key"
    words = ["openssl", "pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(words, check=True, capture_output=True)
    found = trust.check({"ETCD_CERT_FILE": str(pair.certificate), "ETCD_KEY_FILE": str(locked)})
    assert ["pass phrase" in problem.what for problem in found] == [True]
    with pytest.raises(ssl.SSLError):
        trust.load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), str(pair.certificate), str(locked))
