"""docker-opts writes what flannel's script writes, and both it and a shell read it back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from overlayd import cli
from overlayd.commands.docker_opts import docker_options
from overlayd.errors import ConfigError
from overlayd.lib import envfile

SUBNET_ENV = """\
FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.74.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ={masq}
"""
# Seen from flannel 0.28's mk-docker-opts.sh in bash; the blank at both ends of the combined options is its own.
INDIVIDUAL = 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\nDOCKER_OPT_IPMASQ="--ip-masq=true"\nDOCKER_OPT_MTU="--mtu=1472"\n'
COMBINED = 'DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472 "\n'


@pytest.fixture
def subnet_env(tmp_path: Path) -> Path:
    path = tmp_path / "subnet.env"
    path.write_text(SUBNET_ENV.format(masq="false"))
    return path


@pytest.fixture
def docker_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DOCKER_OPTS", "FLANNEL_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "docker_opts.env"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), INDIVIDUAL + COMBINED),
        (("-i",), INDIVIDUAL),
        (("-c",), COMBINED),
        (("-i", "-c"), INDIVIDUAL + COMBINED),
        (("-c", "-k", "CUSTOM_KEY"), COMBINED.replace("DOCKER_OPTS", "CUSTOM_KEY")),
        (("-icm", "-kX"), 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\nDOCKER_OPT_MTU="--mtu=1472"\n'
         'X=" --bip=10.1.74.1/24 --mtu=1472 "\n'),
    ],
)  # fmt: skip
def test_the_options_are_flannels(subnet_env: Path, docker_env: Path, words: tuple[str, ...], text: str) -> None:
    assert cli.main(["docker-opts", "-f", str(subnet_env), "-d", str(docker_env), *words]) == 0
    assert docker_env.read_text() == text
    assert docker_env.stat().st_mode & 0o777 == 0o644


def test_where_flannel_masquerades_docker_does_not(subnet_env: Path, docker_env: Path) -> None:
    subnet_env.write_text(SUBNET_ENV.format(masq="true"))
    assert cli.main(["docker-opts", "-f", str(subnet_env), "-d", str(docker_env), "-i"]) == 0
    assert 'DOCKER_OPT_IPMASQ="--ip-masq=false"\n' in docker_env.read_text()


def test_without_f_it_reads_this_hosts_own_subnet(subnet_env: Path, docker_env: Path) -> None:
    assert cli.main(["docker-opts", "--run-dir", str(subnet_env.parent), "-d", str(docker_env)]) == 0
    assert docker_env.read_text() == INDIVIDUAL + COMBINED


def test_options_that_are_set_already_are_passed_on(
    subnet_env: Path, docker_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_OPTS", "--debug")
    monkeypatch.setenv("DOCKER_OPT_LOG", "--log-level=warn")
    assert cli.main(["docker-opts", "-f", str(subnet_env), "-d", str(docker_env), "-c"]) == 0
    assert docker_env.read_text() == (
        'DOCKER_OPTS="--debug --bip=10.1.74.1/24 --ip-masq=true --log-level=warn --mtu=1472 "\n'
    )


def test_a_shell_and_envfile_read_it_alike(subnet_env: Path, docker_env: Path) -> None:
    cli.main(["docker-opts", "-f", str(subnet_env), "-d", str(docker_env), "-c"])
    said = subprocess.run(
        ["sh", "-c", f'. {docker_env} && echo "$DOCKER_OPTS"'], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == envfile.parse(docker_env.read_text())["DOCKER_OPTS"].strip()


def test_without_a_subnet_docker_is_told_nothing(
    tmp_path: Path, docker_env: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker_env.write_text(COMBINED)
    assert cli.main(["docker-opts", "-f", str(tmp_path / "none"), "-d", str(docker_env)]) == 1
    assert "no subnet yet" in capsys.readouterr().err
    assert docker_env.read_text() == COMBINED


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="FLANNEL_IPMASQ is 'perhaps'"):
        docker_options({"FLANNEL_IPMASQ": "perhaps"}, individual=True, combined=True, key="DOCKER_OPTS", ip_masq=True)
    with pytest.raises(ConfigError, match="-k is 'A B'"):
        docker_options({}, individual=True, combined=True, key="A B", ip_masq=True)


@pytest.mark.parametrize(
    "value", ["plain", "", "a b", 'say "hi"', "back\\slash$HOME`x`", "^eth[0-9]\\d+$", "it's", 'it\'s "\\\\"']
)
def test_an_assignment_is_read_back_by_us_and_by_a_shell(tmp_path: Path, value: str) -> None:
    line = envfile.assignment("KEY", value)
    assert envfile.parse(f"{line}\n") == {"KEY": value}
    path = tmp_path / "file"
    path.write_text(f"{line}\n")
    said = subprocess.run(["sh", "-c", f'. {path} && printf %s "$KEY"'], capture_output=True, text=True, check=True)
    assert said.stdout == value


def test_lines_that_go_on_and_lines_that_say_nothing_are_read_as_a_shell_does() -> None:
    text = '# comment\n\nexport A=1\nB="x \\\n  y"\nnot a line\nA=2\nC=\'never closed\n'
    assert envfile.parse(text) == {"A": "2", "B": "x   y", "C": "'never closed"}
