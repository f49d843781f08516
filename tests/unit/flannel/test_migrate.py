"""`overlayd migrate flannel` on hosts below a folder: what it says, what it writes, and what it leaves alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from overlayd import cli
from overlayd.leases import previous_lease
from overlayd.leases.held_lease import PreviousLease
from overlayd.leases.subnets import Subnets
from overlayd.lib import marks

SYSCONFIG = """\
# Flanneld configuration options
FLANNEL_ETCD_ENDPOINTS="http://192.0.2.1:2379,http://192.0.2.2:2379"
FLANNEL_ETCD_PREFIX="/atomic.io/network"
FLANNEL_OPTIONS="-iface=eth1 --ip-masq"
FLANNELD_ETCD_PASSWORD='geheim'
"""
UNIT = """\
[Service]
EnvironmentFile=/etc/sysconfig/flanneld
EnvironmentFile=-/etc/sysconfig/docker-network
ExecStart=/usr/bin/flanneld-start $FLANNEL_OPTIONS
"""
SUBNET_ENV = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
SUBNET = Subnets(v4=IPv4Network("10.42.7.0/24"))
Migrate = Callable[..., tuple[int, str]]


def put(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A CentOS 7 host of flannel's."""
    put(tmp_path, "etc/sysconfig/flanneld", SYSCONFIG)
    put(tmp_path, "usr/lib/systemd/system/flanneld.service", UNIT)
    put(
        tmp_path,
        "usr/lib/systemd/system/docker.service.d/flannel.conf",
        "[Service]\nEnvironmentFile=-/run/flannel/docker\n",
    )
    put(tmp_path, "run/flannel/subnet.env", SUBNET_ENV)
    put(tmp_path, "etc/sysconfig/overlayd", "# shipped\n#OVERLAYD_IFACE=\n").chmod(0o640)
    requires = tmp_path / "etc/systemd/system/docker.service.requires"
    requires.mkdir(parents=True)
    (requires / "flanneld.service").symlink_to("/usr/lib/systemd/system/flanneld.service")
    (tmp_path / "sys/class/net/flannel.1").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def migrate(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Migrate:
    def run(*words: str) -> tuple[int, str]:
        run_dir = root / "run/overlayd"
        status = cli.main(["migrate", "flannel", "--root", str(root), "--run-dir", str(run_dir), *words])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def written(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode)
        for path in root.rglob("*")
        if path.is_file()
    }


def recalled(root: Path) -> Subnets:
    return previous_lease.recall(root / "var/lib/overlayd", Path(os.devnull)).subnets


def test_without_yes_it_says_all_and_writes_nothing(root: Path, migrate: Migrate) -> None:
    before = written(root)
    status, said = migrate()
    assert status == 0
    assert written(root) == before
    for line in (
        "OVERLAYD_ETCD_ENDPOINTS=http://192.0.2.1:2379,http://192.0.2.2:2379",
        "OVERLAYD_ETCD_PREFIX=/atomic.io/network",
        "OVERLAYD_IFACE=eth1",
        f"10.42.7.0/24 is kept, by {root}/var/lib/overlayd/lease.json",
        "systemctl stop flanneld.service",
        "test ! -e /sys/class/net/flannel.1 || ip link delete flannel.1",
        "ln -sf /dev/null /etc/systemd/system/docker.service.d/flannel.conf",
        "docker.service requires flanneld.service until this",
        "nothing is written",
    ):
        assert line in said
    assert "geheim" not in said


def test_with_yes_it_writes_two_files_and_a_copy_and_the_same_again_nothing(root: Path, migrate: Migrate) -> None:
    shipped = (root / "etc/sysconfig/overlayd").read_bytes()
    assert migrate("--yes")[0] == 0
    file = root / "etc/sysconfig/overlayd"
    assert file.read_bytes().startswith(shipped)
    assert "OVERLAYD_ETCD_PASSWORD=geheim\n" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o640
    assert (root / "etc/sysconfig/overlayd.before-flannel").read_bytes() == shipped
    assert recalled(root) == SUBNET
    before = written(root)
    status, said = migrate("--yes")
    assert (status, written(root)) == (0, before)
    assert "nothing to write" in said


def test_another_network_than_0_gets_files_and_commands_of_its_own(
    root: Path, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_number", 0)
    before = (root / "etc/sysconfig/overlayd").read_bytes()
    status, said = migrate("--yes", "--network-number=2")
    assert status == 0
    assert (root / "etc/sysconfig/overlayd").read_bytes() == before
    assert "OVERLAYD_IFACE=eth1\n" in (root / "etc/sysconfig/overlayd.2").read_text()
    assert (root / "var/lib/overlayd2/lease.json").exists()
    for line in ("overlayd check --network-number=2", "systemctl enable --now overlayd@2"):
        assert f"  {line}\n" in said
    assert "  systemctl enable --now overlayd\n" not in said


def test_what_an_administrator_set_stays_and_is_told(root: Path, migrate: Migrate) -> None:
    put(root, "etc/sysconfig/overlayd", "OVERLAYD_IFACE=eth7\nOVERLAYD_ETCD_PASSWORD=anders\n")
    status, said = migrate("--yes")
    assert status == 0
    assert "OVERLAYD_IFACE=eth7, flannel's is eth1" in said
    assert "OVERLAYD_ETCD_PASSWORD=(not shown), flannel's is (not shown)" in said
    text = (root / "etc/sysconfig/overlayd").read_text()
    assert text.count("OVERLAYD_IFACE=") == 1
    assert "geheim" not in text


def test_a_copy_of_an_earlier_time_is_not_lost(root: Path, migrate: Migrate) -> None:
    put(root, "etc/sysconfig/overlayd.before-flannel", "the first")
    assert migrate("--yes")[0] == 0
    assert (root / "etc/sysconfig/overlayd.before-flannel").read_text() == "the first"
    assert (root / "etc/sysconfig/overlayd.before-flannel1").read_text().startswith("# shipped")


def test_a_subnet_that_an_earlier_overlayd_had_is_replaced_and_told(root: Path, migrate: Migrate) -> None:
    previous_lease.remember(root / "var/lib/overlayd", PreviousLease(subnets=Subnets(v4=IPv4Network("10.42.9.0/24"))))
    _status, said = migrate("--yes")
    assert "it had 10.42.9.0/24" in said
    assert recalled(root) == SUBNET


def test_both_ip_versions_are_kept(root: Path, migrate: Migrate) -> None:
    put(root, "run/flannel/subnet.env", f"{SUBNET_ENV}FLANNEL_IPV6_SUBNET=fd42:0:0:7::1/64\n")
    assert migrate("--yes")[0] == 0
    assert recalled(root) == Subnets(v4=SUBNET.v4, v6=IPv6Network("fd42:0:0:7::/64"))


@pytest.mark.parametrize("place", ["run/flannel/subnet.env", "run/flannel/docker"])
def test_a_subnet_is_found_in_what_mk_docker_opts_wrote_too(root: Path, migrate: Migrate, place: str) -> None:
    (root / "run/flannel/subnet.env").unlink()
    put(root, place, 'DOCKER_NETWORK_OPTIONS=" --bip=10.42.7.1/24 --ip-masq=false --mtu=1450 "\n')
    assert migrate("--yes")[0] == 0
    assert recalled(root) == SUBNET


def test_without_a_subnet_the_settings_are_taken_over_and_that_is_told(root: Path, migrate: Migrate) -> None:
    (root / "run/flannel/subnet.env").unlink()
    status, said = migrate("--yes")
    assert status == 0
    assert "none is known" in said
    assert not (root / "var/lib/overlayd/lease.json").exists()


def test_files_elsewhere_are_named(root: Path, migrate: Migrate) -> None:
    moved = put(root, "opt/flannel.conf", SYSCONFIG.replace("eth1", "eth5"))
    subnet = put(root, "opt/subnet.env", SUBNET_ENV.replace("10.42.7", "10.42.8"))
    (root / "usr/lib/systemd/system/flanneld.service").unlink()
    assert migrate("--yes", "--flannel-sysconfig", str(moved), "--flannel-subnet-env", str(subnet))[0] == 0
    assert "OVERLAYD_IFACE=eth5\n" in (root / "etc/sysconfig/overlayd").read_text()
    assert recalled(root) == Subnets(v4=IPv4Network("10.42.8.0/24"))


def test_a_fixed_bip_and_docker_options_of_old_are_told(root: Path, migrate: Migrate) -> None:
    put(root, "etc/docker/daemon.json", '{"bip": "172.17.0.1/16"}')
    put(root, "etc/sysconfig/docker-network", 'DOCKER_NETWORK_OPTIONS="--bip=172.17.0.1/16"\n')
    _status, said = migrate()
    assert "daemon.json sets bip to 172.17.0.1/16" in said
    assert "# edit /etc/sysconfig/docker-network" in said


def test_a_flannel_of_kubernetes_is_refused_before_anything_is_written(root: Path, migrate: Migrate) -> None:
    put(root, "etc/sysconfig/flanneld", 'FLANNEL_OPTIONS="--kube-subnet-mgr"\n')
    before = written(root)
    status, said = migrate("--yes")
    assert (status, written(root)) == (2, before)
    assert "--kube-subnet-mgr: this flannel has its subnets from Kubernetes" in said


def test_a_host_without_flannel_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["migrate", "flannel", "--root", str(tmp_path / "empty"), "--yes"]) == 1
    assert "flannel has left nothing on this host" in capsys.readouterr().err
