"""The base image's recipe: what it writes into a root filesystem, and what Docker is told of it. No root, no Docker."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from images.base import recipe
from images.bases import catalogue
from images.docker import recipe as docker
from images.engine.containers import ImageConfig
from images.engine.place import ROOT

FILES = ROOT / recipe.FILES
PROGRAMS = sorted((FILES / "usr/libexec/system-container").iterdir())


def make_root(folder: Path, sshd_config: str) -> Path:
    for name in ("etc/ssh", "etc/default", "var/log/journal"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/ssh/sshd_config").write_text(sshd_config)
    recipe.copy_files(FILES, folder)
    return folder


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("Include /etc/ssh/sshd_config.d/*.conf", True),
        ("\tInclude /etc/ssh/other /etc/ssh/sshd_config.d/*.conf", True),
        ("#Include /etc/ssh/sshd_config.d/*.conf", False),
        ("Include /etc/ssh/other", False),
        ("", False),
    ],
)
def test_whether_sshd_reads_a_folder(line: str, known: bool) -> None:
    assert recipe.includes_folder(f"Port 22\n{line}\n") == known


def test_an_sshd_without_a_folder_is_told_in_its_one_file_and_first(tmp_path: Path) -> None:
    root = make_root(tmp_path, "PasswordAuthentication yes\n")
    recipe.settle(root, catalogue.get("debian12-rpm"))
    lines = (root / "etc/ssh/sshd_config").read_text().splitlines()
    assert lines.index("PasswordAuthentication no") < lines.index("PasswordAuthentication yes")
    assert not (root / "etc/ssh/sshd_config.d").exists()


def test_what_differs_between_bases_is_written(tmp_path: Path) -> None:
    root = make_root(tmp_path, "Include /etc/ssh/sshd_config.d/*.conf\n")
    base = dataclasses.replace(catalogue.get("centos-stream10"), locale="en_US.UTF-8")
    recipe.settle(root, base)
    assert (root / "usr/share/system-container/cgroups").read_text() == "2\n"
    assert (root / "etc/locale.conf").read_text() == "LANG=en_US.UTF-8\n"
    assert (root / "etc/default/locale").read_text() == "LANG=en_US.UTF-8\n"
    assert not (root / "var/log/journal").exists()
    assert (root / "etc/ssh/sshd_config").read_text() == "Include /etc/ssh/sshd_config.d/*.conf\n"


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_every_base_says_which_cgroups_it_boots_on(name: str) -> None:
    cgroups = catalogue.get(name).cgroups
    assert cgroups
    assert set(cgroups) <= {1, 2}


def test_accounts_that_let_anybody_in_are_named() -> None:
    assert recipe.accounts_without_password("root:!*:1::::::\nopen::1::::::\nx:*:1:\n\n") == ["open"]


def test_containers_of_it_start_stop_and_are_looked_at() -> None:
    for config in (recipe.CONFIG, docker.CONFIG):
        found = config.document({})
        assert found["Cmd"] == ["/usr/libexec/system-container/start"]
        assert found["StopSignal"] == "SIGRTMIN+3"
        assert found["Healthcheck"] == {
            "Test": ["CMD", "/usr/libexec/system-container/health"],
            "Interval": 10_000_000_000,
            "Timeout": 5_000_000_000,
            "StartPeriod": 60_000_000_000,
        }
    assert "Healthcheck" not in ImageConfig(description="x", command=("true",)).document({})


@pytest.mark.parametrize("shell", [("dash",), ("bash", "--posix")], ids=lambda words: words[0])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_both_shells_that_are_sh_somewhere_can_read_the_programs(program: Path, shell: tuple[str, ...]) -> None:
    done = subprocess.run([*shell, "-n", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_programs_of_the_image_are_the_ones_its_units_and_settings_name() -> None:
    named = {"/".join(recipe.CONFIG.command), "/".join(recipe.CONFIG.healthcheck)}
    for unit in (FILES / "usr/lib/systemd/system").iterdir():
        named |= {line.removeprefix("ExecStart=") for line in unit.read_text().splitlines() if line[:9] == "ExecStart"}
    assert named == {f"/{program.relative_to(FILES)}" for program in PROGRAMS}
    assert {unit.name for unit in (FILES / "usr/lib/systemd/system").iterdir()} == set(recipe.ENABLED)
