"""Docker's options, and what daemon.json has to say about them."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from overlayd.docker import options as docker_options
from overlayd.docker import service as docker_service
from overlayd.docker.dockerd_config import DockerdConfig, read_daemon_json, read_dockerd_config
from overlayd.errors import OverlaydError
from overlayd.leases.subnets import Subnets
from overlayd.lib import process

SUBNET = Subnets(v4=IPv4Network("10.5.52.0/24"))
BOTH = Subnets(v4=IPv4Network("10.5.52.0/24"), v6=IPv6Network("fd42:0:0:7::/64"))
WANT = docker_options.desired_options(SUBNET, 1450, we_masquerade=True)


def test_docker_gets_the_subnets_first_address_and_leaves_masquerading_to_us() -> None:
    given, problems = docker_options.choose_flags(WANT, DockerdConfig())
    assert (given, problems) == (["--bip=10.5.52.1/24", "--ip-masq=false", "--mtu=1450"], [])
    assert docker_options.desired_options(SUBNET, 1450, we_masquerade=False).options()["ip-masq"] == "true"


def test_docker_gets_an_ipv6_subnet_too() -> None:
    given, _problems = docker_options.choose_flags(
        docker_options.desired_options(BOTH, 1430, we_masquerade=True), DockerdConfig()
    )
    assert {"--bip=10.5.52.1/24", "--ipv6=true", "--fixed-cidr-v6=fd42:0:0:7::/64"} <= set(given)
    has = (IPv4Interface("10.5.52.1/24"), IPv6Interface("fd42:0:0:7::1/64"), IPv6Interface("fe80::1/64"))
    assert docker_options.bridge_problem(BOTH, has) is None
    assert "10.5.52.1/24, not" in str(docker_options.bridge_problem(BOTH, (has[0], has[2])))


def test_an_option_in_daemon_json_is_not_given_twice() -> None:
    # dockerd refuses an option that is in both, even with the same value.
    given, problems = docker_options.choose_flags(WANT, DockerdConfig(daemon_json={"bip": "10.5.52.1/24", "mtu": 1450}))
    assert (given, problems) == (["--ip-masq=false"], [])


def test_more_options_are_given_like_the_leases_own() -> None:
    also = {"allow-direct-routing": "true", "bridge-accept-fwmark": "0x1/0x3"}
    given, problems = docker_options.choose_flags(
        WANT, DockerdConfig(daemon_json={"bridge-accept-fwmark": "0x1/0x3"}), also
    )
    assert given[3:] == ["--allow-direct-routing=true"]
    assert problems == []
    _, problems = docker_options.choose_flags(WANT, DockerdConfig(daemon_json={"allow-direct-routing": False}), also)
    assert "allow-direct-routing" in problems[0]


def test_a_contradiction_in_daemon_json_is_reported_not_fought() -> None:
    given, problems = docker_options.choose_flags(
        WANT, DockerdConfig(daemon_json={"bip": "172.30.0.1/16", "ip-masq": True})
    )
    assert given == ["--mtu=1450"]
    assert [("172.30.0.1/16" in text, "10.5.52.1/24" in text) for text in problems] == [(True, True), (False, False)]


def test_another_bridge_takes_no_bip() -> None:
    given, problems = docker_options.choose_flags(WANT, DockerdConfig(daemon_json={"bridge": "br0"}))
    assert "--bip=10.5.52.1/24" not in given
    assert "'br0'" in problems[0]


def test_a_broken_daemon_json_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    assert read_daemon_json(file) == ({}, [])
    for text in ("{", "[]", "\x00"):
        file.write_text(text)
        found, problems = read_daemon_json(file)
        assert found == {}
        assert str(file) in problems[0]
    # Docker takes these from 23 on; one that does not says so itself when it fails.
    for text, holds in (("\n", {}), (" \t\n", {}), ('\ufeff{"mtu": 1400}', {"mtu": 1400}), ("\ufeff", {})):
        file.write_text(text, encoding="utf-8")
        assert read_daemon_json(file) == (holds, []), text


def test_a_bridge_off_the_lease_is_noticed() -> None:
    assert docker_options.bridge_problem(SUBNET, None) is None
    assert docker_options.bridge_problem(SUBNET, (IPv4Interface("10.5.52.1/24"),)) is None
    assert "172.17.0.1/16" in str(docker_options.bridge_problem(SUBNET, (IPv4Interface("172.17.0.1/16"),)))
    assert "no address" in str(docker_options.bridge_problem(SUBNET, ()))


def told(root: Path, files: dict[str, str]) -> DockerdConfig:
    """What docker is told by these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_dockerd_config(root=root)


UNIT = "usr/lib/systemd/system/docker.service"
DEBIAN = "[Service]\nEnvironmentFile=-/etc/default/docker\nExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS\n"


@pytest.mark.parametrize(
    ("files", "where", "problem"),
    [
        ({UNIT: DEBIAN, "etc/default/docker": "DOCKER_OPTS=--bridge=br0\n"}, "/etc/default/docker", "bridge"),
        ({UNIT: DEBIAN, "etc/default/docker": "DOCKER_OPTS='-b br0'\n"}, "/etc/default/docker", "bridge"),
        ({UNIT: "[Service]\nExecStart=/usr/bin/dockerd -b docker0\n"}, f"/{UNIT}", "bridge"),
        ({UNIT: '[Service]\nEnvironment="O=-b br0"\nExecStart=/usr/bin/dockerd $O\n'}, f"/{UNIT}", "bridge"),
        (
            {
                UNIT: DEBIAN,
                "etc/systemd/system/docker.service.d/own.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd "
                "--default-gateway=172.17.0.254\n",
            },
            "/etc/systemd/system/docker.service.d/own.conf",
            "default-gateway",
        ),
        (
            {"etc/docker/daemon.json": '{"default-gateway": "172.17.0.254"}'},
            "/etc/docker/daemon.json",
            "docker will not",
        ),
        ({"etc/docker/daemon.json": '{"fixed-cidr": "172.17.1.0/24"}'}, "/etc/docker/daemon.json", "fixed-cidr"),
        ({"etc/docker/daemon.json": '{"bip": null}'}, "/etc/docker/daemon.json", "bip"),
        (
            {UNIT: "[Service]\nExecStart=/usr/bin/dockerd --config-file /etc/d.json\n", "etc/d.json": '{"mtu": 9000}'},
            *("/etc/d.json", "mtu"),
        ),
        ({UNIT: DEBIAN, "etc/docker/daemon.json": '{"hosts": ["fd://"]}'}, f"/{UNIT}", "--host"),
        (
            {
                UNIT: "[Service]\nEnvironmentFile=-/etc/sysconfig/docker*\nExecStart=/usr/bin/dockerd $OPTIONS $MORE\n",
                "etc/sysconfig/docker": "OPTIONS=--insecure-registry=192.0.2.1\n",
                "etc/sysconfig/docker-network": "MORE=--debug\n",
                "etc/docker/daemon.json": '{"insecure-registries": ["192.0.2.2"]}',
            },
            *("/etc/sysconfig/docker", "insecure-registries"),
        ),
    ],
)
def test_what_contradicts_the_lease_is_named_with_its_file(
    tmp_path: Path, files: dict[str, str], where: str, problem: str
) -> None:
    given, problems = docker_options.plan(WANT, told(tmp_path, files), firewalled=True)
    (found,) = problems
    assert where in found
    assert problem in found
    assert ("--bip=10.5.52.1/24" in given) == (problem not in ("bridge", "bip"))


def test_what_goes_with_the_lease_is_none_of_our_business(tmp_path: Path) -> None:
    files = {
        UNIT: DEBIAN,
        "etc/default/docker": "DOCKER_OPTS='--bip=172.17.0.1/16 --default-gateway 10.5.52.254 --debug'\n",
        "etc/docker/daemon.json": '{"fixed-cidr": "10.5.52.128/25", "bridge": "", "default-gateway-v6": "fd99::1"}',
    }
    given, problems = docker_options.plan(WANT, told(tmp_path, files), firewalled=True)
    # Ours stands behind it, and counts.
    assert (given[0], problems) == ("--bip=10.5.52.1/24", [])


def test_dockers_nftables_backend_is_known_from_its_command_line_too(tmp_path: Path) -> None:
    files = {UNIT: DEBIAN, "etc/default/docker": "DOCKER_OPTS=--firewall-backend=nftables\n"}
    given, _problems = docker_options.plan(WANT, told(tmp_path, files), firewalled=True)
    assert "--allow-direct-routing=true" in given


def test_docker_env_is_made_anew_from_what_docker_is_told_now(tmp_path: Path) -> None:
    env = tmp_path / docker_options.DOCKER_ENV
    docker_options.prepare(tmp_path, DockerdConfig())
    # Without a subnet there is none, whoever asks.
    assert not env.exists()
    nftables = DockerdConfig(daemon_json={"firewall-backend": "nftables"})
    (tmp_path / docker_options.RECORD).write_text(docker_options.record(WANT, firewalled=True))
    env.write_text("old")
    docker_options.prepare(tmp_path, nftables)
    assert "--allow-direct-routing=true" in env.read_text()
    docker_options.prepare(tmp_path, DockerdConfig())
    # Docker's own drops stand again: nobody may be let in to a published port for what it was told before.
    assert env.read_text() == docker_options.env_file(docker_options.plan(WANT, DockerdConfig(), firewalled=True)[0])
    for record in ("", "{}", "[]", '{"subnet": "x"}'):
        (tmp_path / docker_options.RECORD).write_text(record)
        before = env.read_text()
        with pytest.raises(OverlaydError):
            docker_options.prepare(tmp_path, nftables)
        assert env.read_text() == before


def test_a_running_dockerd_is_compared_option_by_option() -> None:
    options, _problems = docker_options.plan(WANT, DockerdConfig(), firewalled=True)

    def different(*words: str, told: DockerdConfig | None = None) -> dict[str, str]:
        return dict(docker_service.differences(("dockerd", *words), options, told or DockerdConfig()))

    assert different(*options, "--iptables", "-H", "fd://", "--bridge=") == {}
    assert different(*options[1:], "--bip", "10.5.52.1/24") == {}
    assert list(different(*options[:1])) == ["ip-masq", "mtu"]
    assert "instead of 1450" in different(*options, "--mtu=1500")["mtu"]
    assert "must not" in different(*options, "--allow-direct-routing")["allow-direct-routing"]
    assert "must not" in different(*options, "--iptables=0")["iptables"]
    # daemon.json decides it now, and says the same.
    assert different(*options, "--iptables=0", told=DockerdConfig(daemon_json={"iptables": False})) == {}


def show(**changes: str) -> str:
    """What systemctl shows of a docker.service that runs well."""
    well = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "UnitFileState": "enabled"}
    well |= {"Job": "0", "DropInPaths": "/usr/lib/50-overlayd.conf /run/zz-overlayd.conf", "InvocationID": "4c01"}
    return "".join(f"{name}={value}\n" for name, value in {**well, **changes}.items())


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What systemctl and journalctl say: to be changed."""
    said = {"systemctl": show(), "journalctl": ""}

    def run(argv: list[str], **_options: object) -> str:
        if argv[0] == "journalctl":
            assert "_SYSTEMD_INVOCATION_ID=4c01" in argv
        return said[argv[0]]

    monkeypatch.setattr(process, "run", run)
    return said


REFUSED = """\
Starting docker.service - Docker Application Container Engine...
time="2026-11-29T17:40:00Z" level=info msg="Starting up"
failed to start daemon: You specified -b & --bip, mutually exclusive options. Please specify only one
docker.service: Main process exited, code=exited, status=1/FAILURE
docker.service: Failed with result 'exit-code'.
"""


def test_why_docker_failed_is_taken_from_its_log(systemd: dict[str, str]) -> None:
    systemd["journalctl"] = REFUSED
    for changes in ({"ActiveState": "failed"}, {"ActiveState": "activating", "SubState": "auto-restart"}):
        systemd["systemctl"] = show(**changes, Result="exit-code")
        assert "mutually exclusive" in str(docker_service.down(docker_service.read_service(DockerdConfig())))
    systemd["journalctl"] = 'time="x" level=fatal msg="Error \\"a\\" \x1b[2J"\n'
    said = str(docker_service.down(docker_service.read_service(DockerdConfig())))
    assert said.isprintable()
    systemd["journalctl"] = "Killing process\n"
    systemd["systemctl"] = show(ActiveState="failed", Result="oom-kill")
    assert "oom-kill, see journalctl -u docker" in str(
        docker_service.down(docker_service.read_service(DockerdConfig()))
    )


@pytest.mark.parametrize(
    ("changes", "down"),
    [
        ({}, False),
        ({"ActiveState": "inactive"}, True),
        # Not wished for, or on its way.
        ({"ActiveState": "inactive", "UnitFileState": "disabled"}, False),
        ({"ActiveState": "inactive", "Job": "17"}, False),
        ({"ActiveState": "activating", "SubState": "start-pre"}, False),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, False),
    ],
)
def test_a_docker_that_is_stopped_counts_where_it_is_enabled(
    systemd: dict[str, str], changes: dict[str, str], down: bool
) -> None:
    systemd["systemctl"] = show(**changes)
    assert (docker_service.down(docker_service.read_service(DockerdConfig())) is not None) == down


def test_a_drop_in_that_is_missing_is_said_before_it_matters_and_when_it_does(systemd: dict[str, str]) -> None:
    assert docker_service.missing_drop_ins(docker_service.read_service(DockerdConfig())) is None
    systemd["systemctl"] = show(DropInPaths="/usr/lib/50-overlayd.conf")
    service = docker_service.read_service(DockerdConfig())
    assert "zz-overlayd.conf" in str(docker_service.missing_drop_ins(service))
    said = docker_service.restart_needed({"bip": "without --bip=10.5.52.1/24"}, service)
    assert "zz-overlayd.conf" in str(said)
    assert "daemon-reload && overlayd docker settle" in str(said)


def test_a_unit_of_somebodys_own_with_our_options_needs_no_drop_in(
    systemd: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told(tmp_path, {UNIT: "[Service]\nExecStart=/usr/bin/dockerd $OVERLAYD_DOCKER_OPTIONS\n"})
    config = read_dockerd_config(root=tmp_path)
    assert config.has_variable
    systemd["systemctl"] = show(DropInPaths="")
    assert docker_service.missing_drop_ins(docker_service.read_service(config)) is None
