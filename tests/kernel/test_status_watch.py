"""`overlayd status --watch` on a terminal, in a pipe and as JSON, beside a real daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from overlayd.lib.files import write_atomically
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.polling import eventually
from tests.testbed.pseudo_terminal import ALTERNATE, NORMAL, PseudoTerminal

LOOK = ("status", "--watch", "0.2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Host a, which is watched, and its peer b."""
    with laboratory(tmp_path_factory.mktemp("watch"), {"Type": "vxlan"}) as lab:
        lab.host("a")
        lab.host("b")
        yield lab


@pytest.fixture
def a(lab: Lab) -> Host:
    """The host that is watched; its daemon runs and reaches b."""
    host = lab.hosts[0]
    if not host.runs():
        host.start()
    return host


def terminal(
    host: Host, *words: str, columns: int = 110, lines: int = 30, run_dir: Path | None = None
) -> PseudoTerminal:
    """The command on a terminal; of another run-dir than the host's where one is given."""
    argv = [*host.overlayd(*(words or LOOK)), *([f"--run-dir={run_dir}"] if run_dir else [])]
    return PseudoTerminal(argv, columns=columns, lines=lines, environment=host.environment())


def fills(seen: PseudoTerminal, columns: int) -> bool:
    """Whether the first line reaches to the right end."""
    return len(seen.display[0]) == columns


class Piped:
    """The command in a pipe: what it has printed so far, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)


@contextmanager
def piped(host: Host, *words: str) -> Iterator[Piped]:
    """Run the command in a pipe for the length of the block."""
    argv = host.overlayd(*LOOK, *words)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=host.environment()) as process:
        found = Piped(process)
        try:
            yield found
        finally:
            process.kill()
            found.thread.join()


def test_it_shows_the_host_and_follows_what_changes(lab: Lab, a: Host) -> None:
    b = lab.hosts[1]
    with terminal(a) as seen:
        seen.shows("is ready", str(a.subnet), "vxlan, container MTU", "peers: 1 (1 reached)", f"{b.address}")
        assert seen.cursor_hidden
        b.stop()
        lab.etcdctl("del", f"/coreos.com/network/subnets/{str(b.subnet).replace('/', '-')}")
        seen.shows("peers: 0", "changes", f"peer {b.subnet} at {b.address} is gone")
        b.start()
        seen.shows("peers: 1", f"peer {b.subnet} at {b.address}:")
        seen.type("q")
        assert seen.wait() == 0
        eventually("the terminal is as it was", lambda: seen.as_it_was)


@pytest.mark.slow
def test_etcd_that_is_away_is_said_above_everything_else(lab: Lab, a: Host) -> None:
    with terminal(a) as seen:
        seen.shows("is ready")
        lab.stop_etcd()
        try:
            text = seen.shows("is NOT ready", "AWAY")
            assert text.splitlines()[1] == "not in order"
            assert text.splitlines()[2].startswith("  etcd")
        finally:
            lab.start_etcd()
        seen.shows("is ready", "etcd: ok, was")


@pytest.mark.slow
def test_a_daemon_that_ends_and_starts_again_is_followed(a: Host) -> None:
    with terminal(a) as seen:
        seen.shows("is ready")
        a.stop(signal.SIGKILL)
        seen.shows("is dead; this is what it said last")
        a.start()
        seen.shows("is ready", "process: ")
        a.stop()
        seen.shows("is stopped")
        a.start()
        seen.shows("is ready")


def test_a_folder_that_comes_later_is_waited_for(a: Host, tmp_path: Path) -> None:
    # The daemon makes the folder when it misses it, so it is another folder of which the terminal knows.
    later = tmp_path / "run"
    with terminal(a, run_dir=later) as seen:
        seen.shows("overlayd has no status", "no daemon has run on this host")
        later.symlink_to(a.run_dir)
        seen.shows("is ready", "overlayd: ready, was no daemon has run")


@pytest.mark.parametrize(
    ("end", "status"),
    [("q", 0), ("\x03", 0), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)],
    ids=["q", "ctrl-c", "SIGTERM", "SIGHUP"],
)
def test_however_it_ends_the_terminal_is_as_it_was(a: Host, end: str | signal.Signals, status: int) -> None:
    with terminal(a) as seen:
        seen.shows("is ready")
        assert seen.raw.startswith(ALTERNATE)
        assert not seen.as_it_was
        if isinstance(end, str):
            seen.type(end)
        else:
            os.kill(seen.pid, end)
        assert seen.wait() == status
        eventually("the terminal is as it was", lambda: seen.as_it_was)
        assert seen.raw.rstrip().endswith(NORMAL)
        assert "Traceback" not in seen.raw.decode()


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(a: Host) -> None:
    shell = ["bash", "-c", 'set -m; "$@"; echo "stopped with $?"; read; fg', "bash", *a.overlayd(*LOOK)]
    with PseudoTerminal(shell, columns=110, lines=30, environment=a.environment()) as seen:
        seen.shows("is ready")
        seen.type("\x1a")
        seen.shows(f"stopped with {128 + signal.SIGTSTP}")
        assert seen.raw.count(NORMAL) == 1
        assert not seen.cursor_hidden
        seen.type("\n")
        eventually("the screen is back", lambda: seen.raw.count(ALTERNATE) == 2 and seen.cursor_hidden)
        eventually("it is drawn", lambda: seen.display[0].startswith("overlayd "))
        seen.type("q")
        assert seen.wait() == 0
        eventually("the terminal is as it was", lambda: seen.as_it_was)


def test_a_resized_window_is_filled_and_not_overflowed(a: Host) -> None:
    with terminal(a) as seen:
        seen.shows("is ready", "q quits")
        for columns, lines in ((60, 12), (140, 40), (20, 4)):
            seen.resize(columns, lines)
            eventually("it fits", partial(fills, seen, columns))
            assert seen.display[0].startswith("overlayd ")
        seen.resize(110, 30)
        seen.shows("q quits", "peers: 1")


def test_a_quiet_screen_is_drawn_without_being_cleared(a: Host) -> None:
    with terminal(a) as seen:
        seen.shows("is ready")
        drawn = seen.raw.count(b"\033[H")
        eventually("it was drawn again", lambda: seen.raw.count(b"\033[H") > drawn + 2)
        # To clear the screen first would flicker; at the beginning it is empty.
        assert seen.raw.count(b"\033[2J") == 1


def test_control_characters_of_others_do_not_reach_the_terminal(a: Host, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    document = a.status() | {"warnings": ["evil\033[2J\r\n\007 key"], "state": "ready", "pid": os.getpid()}
    document.pop("pid_begun")
    real = a.run_dir
    a.run_dir = tmp_path / "run"
    try:
        write_atomically(a.run_dir / "status.json", json.dumps(document))
        with terminal(a) as seen:
            assert r"evil\x1b[2J\r\n\x07 key" in seen.shows("evil")
            assert seen.raw.count(b"\033[2J") == 1
            assert b"\007" not in seen.raw
    finally:
        a.run_dir = real


@pytest.mark.slow
def test_in_a_pipe_each_change_is_printed_once_with_its_time(lab: Lab, a: Host) -> None:
    with piped(a) as seen:
        eventually("the first", lambda: str(lab.hosts[1].subnet) in seen.text and seen.text.endswith("\n\n"))
        lab.stop_etcd()
        try:
            eventually("the change", lambda: "is NOT ready" in seen.text and "AWAY" in seen.text)
        finally:
            lab.start_etcd()
        eventually("and back", lambda: re.search(r"NOT ready.*is ready", seen.text, re.DOTALL))
        heads = [line for line in seen.lines if line.startswith("-- ")]
        assert all(re.fullmatch(r"-- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\n", line) for line in heads)
        reports = seen.text.split("-- ")[1:]
        assert all(one.endswith("\n\n") for one in reports)
        assert "\033" not in seen.text


def test_json_is_one_document_a_line_and_nothing_is_printed_twice(lab: Lab, a: Host) -> None:
    with piped(a, "--json") as seen:
        eventually("the first", lambda: seen.lines)
        assert (json.loads(seen.lines[0])["ready"], json.loads(seen.lines[0])["subnet"]) == (True, str(a.subnet))
        a.stop(signal.SIGKILL)
        eventually("its end", lambda: json.loads(seen.lines[-1])["state"] == "dead")
        a.start()
        eventually("its return", lambda: json.loads(seen.lines[-1])["ready"])
        documents = [json.loads(line) for line in seen.lines]
        times = [one.pop("time") for one in documents]
        assert times == sorted(times)
        assert all(one != after for one, after in pairwise(documents))


def test_it_ends_when_nobody_reads_any_more(a: Host) -> None:
    argv = a.overlayd(*LOOK)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=a.environment()) as one:
        assert one.stdout
        assert one.stderr
        assert one.stdout.readline().startswith("-- ")
        one.stdout.close()
        # Nothing changes on this host: it must not wait for the next change.
        assert one.wait(20) == 1
        assert one.stderr.read() == ""


@pytest.mark.parametrize("seconds", ["0", "-1", "often", "nan", "86400"])
def test_an_interval_that_cannot_be_is_refused_with_what_is_allowed(a: Host, seconds: str) -> None:
    done = a.call("status", f"--watch={seconds}")
    assert done.returncode == 2
    assert f"argument --watch: '{seconds}' is not allowed: seconds from 0.1 to 3600" in done.stderr
