"""The package with a real firewalld: its firewalld service, and its scriptlets at installation and removal.

The tests run in file order, and each leaves firewalld as the next one expects it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from images.engine.place import ROOT
from overlayd.backends import udp, vxlan, wireguard
from rpm import source
from tests.testbed.netns.firewalld import Firewalld, programs_missing
from tests.testbed.netns.lab import Host, laboratory

# The value for healthz-port that the sysconfig file proposes.
HEALTHZ_PORT = 8471
PORTS = {
    f"udp dport {vxlan.DEFAULT_PORT}",
    f"udp dport {udp.DEFAULT_PORT}",
    f"udp dport {wireguard.DEFAULT_PORT}",
    f"udp dport {wireguard.DEFAULT_PORT6}",
    f"tcp dport {HEALTHZ_PORT}",
}
# The scriptlet sees this host's firewalld, and nothing of the machine that it could change.
_ALONE = """\
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mount --bind "$1/own" /etc/firewalld
mount --bind "$1/defaults" /usr/lib/firewalld
shift
exec sh -c "$@"
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    assert not programs_missing(), f"the tests need {programs_missing()}: run `make system`"
    with laboratory(tmp_path_factory.mktemp("package"), {"Type": "vxlan"}) as lab:
        yield lab.host("a", start=False)


@pytest.fixture(scope="module")
def firewalld(host: Host) -> Iterator[Firewalld]:
    """A running firewalld, as on a host that never had our package."""
    found = Firewalld(host, docker_zone=False, shipped=False)
    try:
        found.start()
        yield found
    finally:
        found.remove()


def scriptlet(host: Host, firewalld: Firewalld, tag: str, argument: int) -> str:
    """Run one of the package's scriptlets, which must succeed; its output."""
    assert shutil.which("rpmspec"), "the tests need rpmspec: run `make system`"
    script = subprocess.run(
        ["rpmspec", "--query", f"--queryformat=%{{{tag}}}", str(ROOT / source.SPEC)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    done = subprocess.run(
        [*host.enter, "unshare", "--mount", "sh", "-euc", _ALONE, "sh", firewalld.folder, script, "sh", str(argument)],
        capture_output=True,
        text=True,
        env=host.environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stderr


def opened(host: Host) -> set[str]:
    """The ports that firewalld's rules in the kernel accept."""
    return set(re.findall(r"(?:udp|tcp) dport \d+", host.run("nft", "list", "table", "inet", "firewalld")))


def test_firewalld_is_reloaded_only_when_it_does_not_know_us(host: Host, firewalld: Firewalld) -> None:
    assert "overlayd" not in firewalld.cmd("--get-services")
    firewalld.ship()
    scriptlet(host, firewalld, "POSTIN", 1)
    assert "overlayd" in firewalld.cmd("--get-services").split()
    assert "overlayd-forward" in firewalld.cmd("--get-policies").split()
    assert "overlayd" in firewalld.cmd("--info-service=overlayd")
    # A reload forgets what is only in the runtime configuration.
    firewalld.cmd("--add-port=7777/tcp")
    scriptlet(host, firewalld, "POSTIN", 2)
    assert firewalld.cmd("--list-ports").split() == ["7777/tcp"]


def test_the_service_opens_the_ports_of_the_backends_and_no_other(host: Host, firewalld: Firewalld) -> None:
    before = opened(host)
    firewalld.cmd("--add-service=overlayd")
    assert opened(host) - before == PORTS
    assert not PORTS & before
    assert f"OVERLAYD_HEALTHZ_PORT={HEALTHZ_PORT}\n" in (ROOT / "rpm/units/overlayd.sysconfig").read_text()


def test_erasing_the_package_leaves_a_firewalld_that_loads(host: Host, firewalld: Firewalld) -> None:
    for words in ("--zone=public", "--policy=mine"):
        if "mine" in words:
            firewalld.cmd("--permanent", "--new-policy=mine")
        firewalld.cmd("--permanent", words, "--add-service=overlayd")
        firewalld.cmd("--permanent", words, "--add-service=http")
    firewalld.cmd("--reload")
    # An upgrade does not change what the administrator wrote.
    for tag, argument in (("POSTIN", 2), ("PREUN", 1), ("POSTUN", 1)):
        assert "firewalld" not in scriptlet(host, firewalld, tag, argument)
    assert "overlayd" in firewalld.cmd("--permanent", "--list-services").split()

    said = scriptlet(host, firewalld, "PREUN", 0)
    assert "firewalld's zone public" in said
    assert "firewalld's policy mine" in said
    firewalld.unship()
    scriptlet(host, firewalld, "POSTUN", 0)
    assert "overlayd" not in "\n".join(firewalld.state())
    assert set(firewalld.cmd("--list-services").split()) == {"dhcpv6-client", "http", "ssh"}
    assert firewalld.cmd("--policy=mine", "--list-services").split() == ["http"]
    firewalld.cmd("--reload")
