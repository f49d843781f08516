"""etcd endpoints: what users write, what gRPC dials."""

from __future__ import annotations

import pytest

from overlayd.errors import ConfigError
from overlayd.store.endpoints import parse_endpoint, target


def dial(*texts: str) -> str:
    return target([parse_endpoint(text) for text in texts], lambda _name: ["198.18.0.9"]).address


def test_one_endpoint_keeps_its_name() -> None:
    assert dial("http://etcd.example:2379") == "etcd.example:2379"
    assert dial("198.18.0.1") == "198.18.0.1:2379"
    assert dial("http://[2001:db8::1]:4001") == "[2001:db8::1]:4001"


def test_several_become_one_target() -> None:
    assert dial("http://198.18.0.1:2379", "http://198.18.0.2:2380") == "ipv4:198.18.0.1:2379,198.18.0.2:2380"
    assert dial("http://198.18.0.1", "http://etcd.example") == "ipv4:198.18.0.1:2379,198.18.0.9:2379"
    assert dial("http://198.18.0.1", "http://[2001:db8::1]") == "ipv6:[::ffff:198.18.0.1]:2379,[2001:db8::1]:2379"


def test_certificates_are_checked_against_a_name_of_the_user() -> None:
    several = [parse_endpoint(text) for text in ("https://198.18.0.1", "https://etcd.example")]
    assert target(several, lambda _name: ["198.18.0.9"]).server_name == "etcd.example"


@pytest.mark.parametrize("text", ["", "ftp://a", "http://", "http://a:99999", "http://a/path", "http://u@a"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="etcd-endpoints"):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["http://root:s3cret@a", "https://:s3cret@a:2379", "root:s3cret@a:2379"])
def test_a_password_in_one_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="etcd-password") as refused:
        parse_endpoint(text)
    assert "s3cret" not in str(refused.value)


def test_schemes_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match="mixed"):
        dial("http://198.18.0.1", "https://198.18.0.2")
