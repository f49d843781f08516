"""Each release of Docker blocks packets in its own way: with our rules packets of peers pass, without they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from overlayd import firewall
from tests.testbed.netns.docker_releases import RELEASES, ReplayedRelease, load
from tests.testbed.netns.forwarding import (
    STRANGERS,
    Attempt,
    ForwardingSite,
    accepted_connections,
    connects,
    site,
    use_iptables,
)
from tests.testbed.netns.namespaces import inside

BY_IPTABLES = [release for release in RELEASES if not release.nftables]
BY_NFTABLES = [release for release in RELEASES if release.nftables]
NFT_JSON = {"firewall-backend": "nftables"}


def name(value: object) -> str:
    return value.name if isinstance(value, ReplayedRelease) else str(value)


@pytest.fixture(scope="module")
def made() -> Iterator[ForwardingSite]:
    """Two hosts and a stranger, for all tests of this file."""
    with site() as found:
        yield found


@pytest.fixture
def clean(made: ForwardingSite) -> ForwardingSite:
    """The site without any rule."""
    made.flush()
    return made


@pytest.fixture(params=["nft", "legacy"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`iptables` of that kind."""
    found: str = request.param
    use_iptables(found, tmp_path, monkeypatch)
    return found


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("release", BY_IPTABLES, ids=name)
def test_peers_pass_and_strangers_do_not(
    release: ReplayedRelease, backend: str, kind: str, clean: ForwardingSite
) -> None:
    start_docker(clean, release, {})
    check_closed(clean, release)
    start_overlayd(clean, backend, {})
    check_open(clean, release)
    stop_overlayd(clean)
    check_closed(clean, release)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_without_the_forward_rules_peers_pass_and_a_policy_keeps_strangers_out(
    backend: str, kind: str, clean: ForwardingSite
) -> None:
    release = next(release for release in RELEASES if release.name == "27")
    start_docker(clean, release, {})
    start_overlayd(clean, backend, {}, forward=False)
    check_open(clean, release)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("release", BY_NFTABLES, ids=name)
def test_peers_pass_dockers_nftables_too(
    release: ReplayedRelease, backend: str, kind: str, clean: ForwardingSite
) -> None:
    # Without these options of dockerd no rule of ours can let packets through.
    start_docker(clean, release, {})
    start_overlayd(clean, backend, NFT_JSON)
    check_closed(clean, release)
    stop_overlayd(clean)
    clean.flush()
    start_docker(clean, release, firewall.docker_options_needed(NFT_JSON))
    assert not accepted_connections(
        [(clean.a.container, clean.b.address(version), 81) for version in versions(release)]
    )
    start_overlayd(clean, backend, NFT_JSON)
    check_open(clean, release)


@pytest.mark.parametrize("release", BY_NFTABLES[:1], ids=name)
def test_an_administrators_own_mark_and_direct_routing_are_kept(
    release: ReplayedRelease, kind: str, clean: ForwardingSite
) -> None:
    daemon_json = {**NFT_JSON, "bridge-accept-fwmark": "0x1/0x3", "allow-direct-routing": "true"}
    start_docker(clean, release, firewall.docker_options_needed(daemon_json))
    start_overlayd(clean, "nftables", daemon_json)
    assert connects(clean.a.container, clean.b.address(4), 81)
    clean.b.accept(81)
    # An administrator who asked for direct routing has it.
    assert connects(clean.stranger, clean.b.address(4), 80)
    clean.b.accept(80)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_dockerd_that_starts_after_us_is_opened_at_the_next_look(
    backend: str, kind: str, clean: ForwardingSite
) -> None:
    release = next(release for release in RELEASES if release.name == "28.2")
    start_overlayd(clean, backend, {})
    start_docker(clean, release, {})
    check_closed(clean, release)
    start_overlayd(clean, backend, {})
    check_open(clean, release)


def start_docker(at: ForwardingSite, release: ReplayedRelease, options: dict[str, str]) -> None:
    for router in (at.a, at.b):
        for version in versions(release):
            load(release, router.namespace, router.subnets[version], router.address(version), options=options)


def start_overlayd(at: ForwardingSite, backend: str, daemon_json: dict[str, str], *, forward: bool = True) -> None:
    for router in (at.a, at.b):
        wanted = router.desired(daemon_json, forward=forward)
        report = inside(router.namespace, partial(firewall.Firewall(backend).sync, wanted))
        assert (report.backend, report.problems, report.limits) == (backend, (), ())
        assert not inside(router.namespace, partial(firewall.Firewall(backend).sync, wanted)).written


def stop_overlayd(at: ForwardingSite) -> None:
    for router in (at.a, at.b):
        assert inside(router.namespace, lambda: list(firewall.cleanup()))


def versions(release: ReplayedRelease) -> tuple[int, ...]:
    return (4, 6) if release.ipv6 else (4,)


def check_open(at: ForwardingSite, release: ReplayedRelease) -> None:
    """Containers reach each other on any port and see each other's own addresses; strangers reach published ports."""
    for version in versions(release):
        for source, target, port in ((at.a, at.b, 81), (at.a, at.b, 80), (at.b, at.a, 81)):
            assert connects(source.container, target.address(version), port), (version, port)
            assert target.accept(port) == source.address(version)
    check_stranger(at, release, ports=(80, 81))


def check_closed(at: ForwardingSite, release: ReplayedRelease) -> None:
    """Containers do not reach each other, nor strangers them."""
    # Docker before 28.0 protects only ports that are not published.
    ports = (80, 81) if release.closes else (81,)
    check_stranger(
        at, release, ports=ports, also=[(at.a.container, at.b.address(version), 81) for version in versions(release)]
    )


def check_stranger(
    at: ForwardingSite, release: ReplayedRelease, *, ports: Sequence[int], also: Sequence[Attempt] = ()
) -> None:
    """A stranger gets to a published port by the host's address, and to none of `ports` by the container's own.

    Nor does `also`.
    """
    direct = [(at.stranger, at.b.address(version), port) for version in versions(release) for port in ports]
    assert not accepted_connections([*direct, *also])
    for version in versions(release):
        separator = "." if version == 4 else ":"
        assert connects(at.stranger, f"{STRANGERS[version]}{separator}1", 8080)
        at.b.accept(80)
