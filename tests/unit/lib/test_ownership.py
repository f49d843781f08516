"""Root writes, makes and runs nothing where somebody else could put another thing in its place."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from overlayd.errors import ConfigError
from overlayd.lib.files import write_atomically
from overlayd.lib.ownership import open_to_others, require_folder
from tests.testbed.netns.lab import environment

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which root may")


def test_what_is_roots_alone_is_well_and_so_is_what_is_not_there(tmp_path: Path) -> None:
    assert open_to_others(tmp_path) is None
    assert open_to_others(tmp_path / "none/of/it") is None
    assert open_to_others(Path("/")) is None
    (tmp_path / "link").symlink_to(tmp_path)
    assert open_to_others(tmp_path / "link/x") is None


def test_a_sticky_folder_may_be_on_the_way_but_not_the_end(tmp_path: Path) -> None:
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "ours").mkdir()
    assert open_to_others(sticky / "ours") is None
    assert "others than root may write to" in (open_to_others(sticky) or "")
    sticky.chmod(0o777)
    assert str(sticky) in (open_to_others(sticky / "ours") or "")


@root_only
def test_each_folder_and_each_link_on_the_way_counts(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "ours/below").mkdir(parents=True)
    os.chown(theirs, NOBODY, NOBODY)
    for path in (theirs, theirs / "ours", theirs / "ours/below", theirs / "none", tmp_path / "x/../theirs/ours"):
        (tmp_path / "x").mkdir(exist_ok=True)
        assert f"{theirs} belongs to user {NOBODY}" in (open_to_others(path) or ""), path
    # A way out of it by `..` is no way through it, as the kernel sees it.
    (tmp_path / "way").symlink_to("theirs/ours")
    assert "belongs" in (open_to_others(tmp_path / "way/below") or "")
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "link").symlink_to(tmp_path)
    os.chown(sticky / "link", NOBODY, NOBODY, follow_symlinks=False)
    assert "link belongs to user" in (open_to_others(sticky / "link/x") or "")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "link to a link" in (open_to_others(tmp_path / "a") or "")


@root_only
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_nothing_is_written_into_a_folder_of_somebody_elses(tmp_path: Path, how: str) -> None:
    folder, victim = tmp_path / "theirs", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("whole")
    (folder / "below").symlink_to(tmp_path / "made")
    (folder / "status.json").symlink_to(victim)
    os.chown(folder, NOBODY, NOBODY) if how == "owner" else folder.chmod(0o777)
    for name in ("status.json", "new", "below/deep/new", "other/deep/new"):
        with pytest.raises(OSError, match="theirs"):
            write_atomically(folder / name, "text")
    assert victim.read_text() == "whole"
    assert not (tmp_path / "made").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["below", "status.json"]
    with pytest.raises(ConfigError, match=r"run-dir .* is not root's alone"):
        require_folder(folder / "x/y", "run-dir")
    assert not (folder / "x").exists()


def test_a_pipe_in_a_files_place_is_replaced_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file")
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_link_in_a_files_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("whole")
    (tmp_path / "file").symlink_to("victim")
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "victim").read_text() == "whole"
    assert stat.S_ISREG((tmp_path / "file").lstat().st_mode)


def test_a_folder_is_made_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        require_folder(tmp_path / "a/b", "state-dir", mode=0o700)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")]
    assert modes == [0o755, 0o700]


@root_only
@pytest.mark.parametrize("setting", ["run-dir", "state-dir", "subnet-file", "config-file"])
def test_a_daemon_refuses_a_place_of_somebody_elses_by_name(tmp_path: Path, setting: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config").write_text("OVERLAYD_ETCD_PREFIX=/x\n")
    os.chown(theirs, NOBODY, NOBODY)
    flags = {"config-file": os.devnull, "run-dir": tmp_path / "run", "state-dir": tmp_path / "state", "iface": "lo"}
    flags["public-ip"] = "192.0.2.1"
    flags[setting] = theirs / "config" if setting == "config-file" else theirs / "below"
    words = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, "-m", "overlayd"]
    done = subprocess.run(
        [*words, "run", *(f"--{name}={value}" for name, value in flags.items())],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=False,
    )
    assert done.returncode == ConfigError.exit_status, done
    assert setting in done.stderr
    assert f"belongs to user {NOBODY}" in done.stderr
    assert [path.name for path in theirs.iterdir()] == ["config"]
