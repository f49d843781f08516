"""images/etcd/README.md: every block of commands is run in order, as a reader runs it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import NotFound

from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.docker_engine import client
from tests.testbed.cluster.images import image_of
from tests.testbed.needs import needs

_README = ROOT / "images/etcd/README.md"
_CONTAINERS = ("etcd", "etcd1", "etcd2", "etcd3")
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (.+)\n((?:(?!^## ).*\n)*)", re.MULTILINE)
_TIMEOUT_S = 60
_CONFIG = '{"Network":"10.42.0.0/16"}'
_GET = """tool env ETCDCTL_ENDPOINTS=https://198.18.50.1{}:2379 \\
    etcdctl-as /secrets/overlayd-admin get --print-value-only /coreos.com/network/config\n"""


def sections() -> dict[str, list[str]]:
    """The blocks of commands by section."""
    return {name: _BLOCK.findall(body) for name, body in _SECTION.findall(_README.read_text())}


class Shell:
    """Runs blocks in one folder; later blocks see what earlier ones defined, as in a reader's shell."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self._base = base
        self._state = folder.parent / "state.sh"
        self._state.write_text("")

    def run(self, block: str) -> str:
        """The output of a block; the test fails if the block does."""
        block = block.replace("overlayd/etcd:debian12-rpm", image_of("etcd", self._base))
        keep = f'{{ declare -p IMAGE ADDRESS CLUSTER || :; declare -f; }} >"{self._state}" 2>/dev/null'
        script = f'. "{self._state}"\n{block}\n{keep}\n'
        done = subprocess.run(
            ["timeout", str(_TIMEOUT_S), "bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}\n{_logs()}"
        return done.stdout


def _there() -> list[str]:
    found = [name for name in _CONTAINERS if client().containers.list(all=True, filters={"name": f"^{name}$"})]
    return found + [volume.name for volume in client().volumes.list() if volume.name in _CONTAINERS]


def _logs() -> str:
    made = client().containers.list(all=True, filters={"network": "etcd"})
    return "\n".join(f"{one.name}: {one.logs(tail=5).decode(errors='replace')}" for one in made)


@pytest.fixture
def shell(tmp_path: Path, base: str) -> Iterator[Shell]:
    """A reader's shell. The test fails at once if this machine already uses the names of the blocks' containers."""
    assert not _there(), "the README's names are in use here: remove these containers and volumes, or test elsewhere"
    (tmp_path / "empty").mkdir()
    yield Shell(tmp_path / "empty", base)
    for name in _CONTAINERS:
        for kind in (client().containers, client().volumes):
            try:
                kind.get(name).remove(force=True)
            except NotFound:
                continue
    for network in client().networks.list(names=["^etcd$"]):
        network.remove()


def test_every_block_is_in_a_section_that_is_run() -> None:
    found = sections()
    assert sum(map(len, found.values())) == len(_BLOCK.findall(_README.read_text()))
    assert [name for name, blocks in found.items() if blocks] == [
        *(
            "One node",
            "An etcd that you have",
            "Three nodes with TLS",
            "Backup",
            "Restore",
            "Replace a member",
            "Upgrade",
        ),
    ]
    # No indented block contains a command.
    assert not re.findall(r"^    (?:docker|etcd)", _BLOCK.sub("", _README.read_text()), re.MULTILINE)


@pytest.mark.slow
@needs("docker")
def test_the_readme_does_what_it_says(shell: Shell) -> None:
    blocks = sections()
    start, replace, remove = blocks["One node"]
    shell.run(start)
    assert shell.run(replace).splitlines()[-1] == _CONFIG
    assert {file.stat().st_mode & 0o777 for file in shell.folder.rglob("etcd-password")} == {0o600}
    shell.run(remove)
    assert not _there()

    (yours,) = blocks["An etcd that you have"]
    said = shell.run(yours)
    assert "OVERLAYD_ETCD_ENDPOINTS=http://127.0.0.1:2379" in said
    assert said.splitlines()[-3] == "who has no password is told nothing"
    assert not _there()

    (three,) = blocks["Three nodes with TLS"]
    assert shell.run(three).count("healthy: https://198.18.50.1") >= 3
    (backup,) = blocks["Backup"]
    shell.run(backup)
    shell.run("tool etcdctl-as /secrets/root put /coreos.com/network/config '{}'\n")
    before = _cluster_id(shell)
    (restore,) = blocks["Restore"]
    shell.run(restore)
    assert shell.run(_GET.format(2)).strip() == _CONFIG
    assert _cluster_id(shell) != before

    restored = _cluster_id(shell)
    (lost,) = blocks["Replace a member"]
    shell.run(lost)
    upgrade, away = blocks["Upgrade"]
    shell.run(upgrade)
    assert shell.run(_GET.format(3)).strip() == _CONFIG
    assert _cluster_id(shell) == restored
    shell.run(away)
    assert not _there()


def _cluster_id(shell: Shell) -> int:
    found = json.loads(shell.run("tool etcdctl-as /secrets/root endpoint status --write-out=json\n"))
    (one,) = {member["Status"]["header"]["cluster_id"] for member in found}
    return int(one)
