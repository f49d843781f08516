"""The drop-in for docker.service, from the units that real packages install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlayd.docker import generator
from overlayd.docker.generator import drop_in, main
from overlayd.lib.unit_files import exec_start

DOCKER_CE = """\
[Unit]
After=network-online.target docker.socket
[Service]
Type=notify
ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock
ExecReload=/bin/kill -s HUP $MAINPID
"""
DEBIAN = """\
[Service]
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS
"""
CENTOS_7 = """\
[Service]
ExecStart=/usr/bin/dockerd-current \\
          --add-runtime docker-runc=/usr/libexec/docker/docker-runc-current \\
          # a comment in between
          $OPTIONS \\
          $DOCKER_NETWORK_OPTIONS
"""


def install(root: Path, unit: str, *, enabled: bool = True, where: str = "usr/lib/systemd/system") -> None:
    path = root / where / "docker.service"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(unit)
    if enabled:
        link = root / "etc/systemd/system/multi-user.target.wants/overlayd.service"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text("")


def test_docker_ce_keeps_its_flags_and_gets_ours(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    text = drop_in(tmp_path)
    assert text is not None
    lines = text.splitlines()
    cleared = lines.index("ExecStart=")
    assert lines[cleared + 1] == (
        "ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $OVERLAYD_DOCKER_OPTIONS"
    )
    assert "Wants=overlayd.service" in lines
    assert not any(line.startswith(("Requires=", "BindsTo=", "PartOf=")) for line in lines)


def test_debians_and_centos_7s_variables_stay(tmp_path: Path) -> None:
    install(tmp_path, DEBIAN)
    assert "/usr/sbin/dockerd -H fd:// $DOCKER_OPTS $OVERLAYD_DOCKER_OPTIONS" in (drop_in(tmp_path) or "")
    assert exec_start([CENTOS_7]) == [
        "/usr/bin/dockerd-current --add-runtime docker-runc=/usr/libexec/docker/docker-runc-current $OPTIONS "
        "$DOCKER_NETWORK_OPTIONS"
    ]


def test_a_drop_in_that_comes_after_ours_takes_no_option_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "Path", lambda text: tmp_path if text == "/" else Path(text))
    install(tmp_path, DOCKER_CE)
    own = drop(tmp_path, "zzz-own.conf", b"[Service]\nExecStart=\nExecStart=/opt/dockerd\n")
    drop(tmp_path, "zzzz-proxy.conf", b"[Service]\nEnvironment=A=b\n")
    assert main([str(tmp_path / "made"), "", ""]) == 0
    made = sorted((tmp_path / "made/docker.service.d").iterdir())
    # By their names, as systemd takes them.
    texts = [path.read_text() for path in sorted([*made, own], key=lambda path: path.name)]
    assert exec_start([DOCKER_CE, *texts]) == ["/opt/dockerd $OVERLAYD_DOCKER_OPTIONS"]
    assert "".join(texts).count("docker prepare") == 1


def test_an_administrators_own_command_counts(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    own = tmp_path / "etc/systemd/system/docker.service.d/own.conf"
    own.parent.mkdir(parents=True)
    own.write_text("[Service]\nExecStart=\nExecStart=/opt/dockerd --debug\n")
    text = drop_in(tmp_path) or ""
    assert "ExecStart=/opt/dockerd --debug $OVERLAYD_DOCKER_OPTIONS" in text
    assert "/usr/bin/dockerd" not in text


def test_a_unit_in_etc_hides_the_packages_one(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    install(tmp_path, DEBIAN, where="etc/systemd/system")
    assert "/usr/sbin/dockerd" in (drop_in(tmp_path) or "")


def test_nothing_is_written_unless_overlayd_is_enabled_and_docker_installed(tmp_path: Path) -> None:
    assert drop_in(tmp_path) is None
    install(tmp_path, DOCKER_CE, enabled=False)
    assert drop_in(tmp_path) is None


def test_without_systemds_argument_it_fails() -> None:
    assert main([]) == 2


def drop(root: Path, name: str, content: bytes) -> Path:
    """A drop-in of an administrator's."""
    path = root / "etc/systemd/system/docker.service.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def commands(root: Path) -> list[str]:
    """What docker.service would be started by."""
    lines = (drop_in(root) or "").splitlines()
    return [line for line in lines if line.startswith("ExecStart=") and line != "ExecStart="]


WHOLE = ["ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $OVERLAYD_DOCKER_OPTIONS"]


def test_a_comment_in_latin_1_takes_nothing_away(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    drop(tmp_path, "override.conf", "# ge\xe4ndert\n[Service]\nEnvironment=A=b\n".encode("latin-1"))
    assert commands(tmp_path) == WHOLE


def test_what_is_in_utf_8_is_repeated_byte_by_byte(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    # U+2028 and U+0085 end a line for Python, and no line for systemd.
    command = "/opt/d\u00f6cker --label=a\u2028b\u0085c\u00a0"
    drop(tmp_path, "own.conf", f"\ufeff[Service]\nExecStart=\nExecStart={command}\n".encode())
    text = drop_in(tmp_path) or ""
    assert f"\nExecStart={command} $OVERLAYD_DOCKER_OPTIONS\n" in text


def test_a_command_that_systemd_ignores_is_not_repeated(tmp_path: Path) -> None:
    # It would be ignored in our drop-in as well, which has taken the others away.
    install(tmp_path, DOCKER_CE)
    drop(tmp_path, "own.conf", b"[Service]\nExecStart=/opt/d\xf6cker\n")
    assert commands(tmp_path) == WHOLE


def test_a_backslash_continues_a_line_only_where_systemd_says_so(tmp_path: Path) -> None:
    # At the file's end nothing follows; escaped, or before a blank, it is a character like others.
    for text, command in (
        (b"[Service]\nExecStart=\nExecStart=/opt/dockerd \\", "/opt/dockerd"),
        (b"[Service]\nEnvironment=A=b\\\\\nExecStart=\nExecStart=/opt/dockerd\n", "/opt/dockerd"),
        (b"[Unit]\nDescription=a \\ \n[Service]\nExecStart=\nExecStart=/opt/dockerd\n", "/opt/dockerd"),
        (b"[Service]\nExecStart=\nExecStart=/opt/dockerd \\\n  --debug\n", "/opt/dockerd --debug"),
    ):
        install(tmp_path, DOCKER_CE)
        drop(tmp_path, "own.conf", text)
        assert commands(tmp_path) == [f"ExecStart={command} $OVERLAYD_DOCKER_OPTIONS"], text


def test_a_drop_in_that_is_no_file_or_cannot_be_read_is_passed_over_alone(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    first = drop(tmp_path, "10-own.conf", b"[Service]\nExecStart=\nExecStart=/opt/dockerd\n")
    folder = first.parent
    (folder / "20-folder.conf").mkdir()
    (folder / "30-loop.conf").symlink_to("30-loop.conf")
    (folder / "40-nowhere.conf").symlink_to("/nowhere")
    (folder / "50-masked.conf").symlink_to("/dev/null")
    os.mkfifo(folder / "60-pipe.conf")
    # Reading it fails for root too: EIO.
    (folder / "70-unreadable.conf").symlink_to("/proc/self/mem")
    assert commands(tmp_path) == ["ExecStart=/opt/dockerd $OVERLAYD_DOCKER_OPTIONS"]


def test_a_folder_of_drop_ins_that_links_to_itself_is_none(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    (tmp_path / "etc/systemd/system/docker.service.d").symlink_to("docker.service.d")
    assert commands(tmp_path) == WHOLE


def test_docker_gets_its_options_anew_before_it_starts_and_is_refused_only_without_a_subnet(tmp_path: Path) -> None:
    install(tmp_path, DOCKER_CE)
    before = [line for line in (drop_in(tmp_path) or "").splitlines() if line.startswith("ExecStartPre=")]
    # A failure of the first keeps nothing down.
    assert [line.startswith("ExecStartPre=-/usr/bin/overlayd docker prepare ") for line in before] == [True, False]


PIECES = st.sampled_from(
    [
        *(b"[Service]\n", b"[Unit]\n", b"ExecStart=\n", b"ExecStart=/bin/echo a\n", b"ExecStart=/bin/echo b \\\n"),
        *(b"# ge\xe4ndert\n", b"ExecStart=/bin/echo \xe4\n", b"\0", b"\r\n", b"\r", b"\n", b"; c\n", b"=", b" c\n"),
        *("\ufeff".encode(), "\u2028".encode(), "\ufffe".encode(), b"x" * 5000, b"\x1f", b"\x85", b"A=b\n"),
        *(b"\\", b"\\\\\n", b"\\ \n"),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=6), max_size=9).map(b"".join))
@example(b"")
@settings(max_examples=120)
def test_no_bytes_in_a_drop_in_break_it(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        install(root, DOCKER_CE)
        drop(root, "own.conf", content)
        text = drop_in(root)
    if text is None:
        # It took the command away and gave none.
        assert b"ExecStart" in content
        return
    # What is written is taken whole: each command is one line of what systemd reads, with our variable behind it.
    written = exec_start([DOCKER_CE, text])
    assert len(written) == text.count("\nExecStart=") - 1
    assert all(command.endswith(" $OVERLAYD_DOCKER_OPTIONS") for command in written)


@pytest.mark.needs("root")
@given(st.lists(PIECES, max_size=9).map(b"".join))
@example(b"[Service]\nExecStart=\nExecStart=/bin/echo one\0ExecStart=/bin/echo \xe4\n")
@settings(max_examples=25, deadline=None)
def test_systemd_itself_takes_with_our_drop_in_what_it_takes_without(content: bytes) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        install(root, "[Service]\nType=oneshot\nExecStart=/bin/true\n")
        drop(root, "own.conf", content)
        before = taken(root)
        text = drop_in(root)
        if text is not None:
            drop(root, "zz-overlayd.conf", text.encode())
        assert (before and text is not None) == (taken(root) and text is not None), (content, text)


def taken(root: Path) -> bool:
    """Whether systemd finds a docker.service that it can start."""
    place = root / "etc/systemd/system"
    for name in ("sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "-.slice", "system.slice"):
        (place / name).write_text("[Unit]\nDescription=there\n")
    (place / "overlayd.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "docker.service"],
        env={**os.environ, "SYSTEMD_UNIT_PATH": str(place) + ":" + str(root / "usr/lib/systemd/system")},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert "docker.service" in done.stderr or done.returncode == 0, done.stderr
    return "Unit docker.service" not in done.stderr and "no ExecStart" not in done.stderr


def test_the_generator_runs_at_boot_and_imports_two_modules_of_ours() -> None:
    script = "import sys; import overlayd.docker.generator; print(*sorted(n for n in sys.modules if 'overlayd.' in n))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        *("overlayd.docker", "overlayd.docker.generator", "overlayd.lib", "overlayd.lib.unit_files")
    ]
