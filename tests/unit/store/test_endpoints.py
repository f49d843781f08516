"""etcd endpoints: what users write, and what is read out of it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlayd.errors import ConfigError
from overlayd.store.endpoints import EtcdEndpoint, parse_endpoint, parse_endpoints

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z0-9]{1,5}){0,3}", fullmatch=True)
addresses = st.ip_addresses().map(str)
endpoints = st.builds(EtcdEndpoint, host=names | addresses, port=st.integers(1, 65535), tls=st.booleans())
# Text that comes near to an endpoint, and any other.
texts = st.text() | st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "http://", "https://", "HTTPS://", "ftp://", "//"]),
    st.sampled_from(["etcd", "198.18.0.1", "[2001:db8::1]", "[", "]", "[::", "etc d", "\u2100", "%zz", ""]),
    st.sampled_from(["", ":2379", ":", ":0", ":99999", ":-1", ":x", "/", "/x", "?q", "#f"]),
    st.text(max_size=2),
)


@given(endpoints)
def test_what_is_written_out_is_read_back(endpoint: EtcdEndpoint) -> None:
    assert parse_endpoint(str(endpoint)) == endpoint
    if not endpoint.tls:
        assert parse_endpoint(f"{endpoint.dialled_host}:{endpoint.port}") == endpoint


@given(texts)
def test_any_text_is_an_endpoint_that_can_be_dialled_or_a_config_error(text: str) -> None:
    try:
        found = parse_endpoint(text)
    except ConfigError as error:
        refused = error
    else:
        check_that_it_can_be_dialled(found)
        return
    assert "etcd-endpoints" in refused.message
    assert refused.hint


def check_that_it_can_be_dialled(found: EtcdEndpoint) -> None:
    assert 1 <= found.port <= 65535
    assert found.host.isascii()
    assert not set(found.host) & set("/[]@?#, \t\n")
    if ":" in found.host:
        assert ip_address(found.host).version == 6
    assert parse_endpoint(str(found)) == found


@given(st.text(), st.text(min_size=3), names)
def test_a_password_in_an_endpoint_is_refused_and_not_repeated(user: str, password: str, host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(f"https://{user}:{password}@{host}")
    fixed = "etcd-endpoints: one of them holds a user or a password\n  set etcd-username and etcd-password-file"
    assert str(caught.value) == fixed


@given(st.lists(endpoints, min_size=1, max_size=5))
def test_several_are_kept_in_order_and_never_half_encrypted(some: list[EtcdEndpoint]) -> None:
    texts = [str(one) for one in some]
    if len({one.tls for one in some}) == 1:
        assert list(parse_endpoints(texts)) == some
    else:
        with pytest.raises(ConfigError, match="mixed"):
            parse_endpoints(texts)


def test_scheme_and_port_may_be_left_out() -> None:
    assert str(parse_endpoint("198.18.0.1")) == "http://198.18.0.1:2379"
    assert str(parse_endpoint("https://Etcd.Example/")) == "https://etcd.example:2379"
    assert str(parse_endpoint("http://[2001:db8::1]:4001")) == "http://[2001:db8::1]:4001"


@pytest.mark.parametrize(
    "text", ["", "ftp://a", "http://", "http://a:99999", "http://a:0", "http://a/path", "http://a?b", "http://a b"]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="etcd-endpoints"):
        parse_endpoint(text)


def test_none_is_an_error_of_its_own() -> None:
    with pytest.raises(ConfigError, match="none given"):
        parse_endpoints([])


def test_a_part_of_a_password_is_not_shown_where_it_reads_as_an_endpoint_of_its_own() -> None:
    with pytest.raises(ConfigError, match="holds a user or a password") as caught:
        parse_endpoints(["http://user:hunter2", "rest@etcd1"])
    assert "hunter2" not in str(caught.value)
