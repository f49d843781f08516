"""`overlayd status`: what people and programs read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from overlayd.commands.status_report import document, duration, report
from overlayd.errors import OverlaydError
from overlayd.lib.tables import columns
from overlayd.monitoring import status_file
from overlayd.monitoring.status_file import Peer, Reach, Status, StatusFile

STATUS = Status(
    state="ready",
    pid=7,
    version="1.2.3",
    started_at_s=1000.0,
    watched_at="[::]:8471",
    network="10.5.0.0/16",
    subnet="10.5.1.0/24",
    backend="vxlan",
    mtu_bytes=1450,
    ifname="eth0",
    ifname_reason="the default route",
    public_ip="198.18.1.1",
    etcd_endpoints=("http://198.18.1.254:2379",),
    etcd_connected=True,
    etcd_revision=9,
    firewall="iptables",
    peers=(
        Peer(subnet="10.5.2.0/24", public_ip="198.18.1.2", backend="vxlan", path="overlay.1"),
        Peer(
            subnet="fd00:5:0:2200::/64",
            public_ip="2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff",
            backend="wireguard",
            problem="its backend is wireguard, ours is vxlan",
        ),
    ),
)


def test_for_people_columns_stand_below_each_other_however_long_an_address_is() -> None:
    lines = list(report(STATUS, now_s=12_000.0))
    assert lines[0] == "overlayd 1.2.3 is NOT ready"
    assert "  running     for 3 h 3 min, pid 7" in lines
    assert "  watched at  http://[::]:8471/readyz" in lines
    assert "  peers  1 of 2 not programmed" in lines
    title, heads, first, second = lines[-4:]
    assert title == "peers: 2"
    for cells in (
        ("SUBNET", "10.5.2.0/24", "fd00:5:0:2200::/64"),
        ("PUBLIC ADDRESS", "198.18.1.2", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"),
        ("BACKEND", "vxlan", "wireguard"),
        ("PATH", "overlay.1", "none  "),
        ("PROBLEM", "none", "its backend is wireguard, ours is vxlan"),
    ):
        at = {line.rindex(f"  {cell}") for line, cell in zip((heads, first, second), cells, strict=True)}
        assert len(at) == 1, cells
    assert second.endswith(" ours is vxlan")


def test_a_host_in_order_has_nothing_to_say_of_disorder() -> None:
    lines = list(report(dataclasses.replace(STATUS, peers=STATUS.peers[:1]), now_s=1000.0))
    assert lines[0] == "overlayd 1.2.3 is ready"
    assert not [line for line in lines if "not in order" in line or "skipped" in line]


def test_what_a_dead_daemon_said_last_is_called_that() -> None:
    dead = dataclasses.replace(STATUS, state="dead", problem="it ended without a word")
    lines = list(report(dead, now_s=2000.0))
    assert lines[0] == "overlayd 1.2.3 is dead; this is what it said last"
    assert not [line for line in lines if "running" in line or "watched" in line]
    assert [line for line in lines if "daemon" in line and "without a word" in line]


def test_for_programs_there_is_a_verdict_and_all_of_the_status() -> None:
    found = json.loads(json.dumps(document(STATUS)))
    assert found["ready"] is False
    assert {name for name, words in found["checks"].items() if words != "ok"} == {"peers"}
    assert {field.name for field in dataclasses.fields(Status)} < found.keys()
    assert found["peers"][0] == {
        "subnet": "10.5.2.0/24",
        "public_ip": "198.18.1.2",
        "backend": "vxlan",
        "subnet6": None,
        "public_ip6": None,
        "path": "overlay.1",
        "problem": None,
    }


def test_a_status_is_read_as_it_was_written_also_from_a_newer_daemon(tmp_path: Path) -> None:
    StatusFile(tmp_path, STATUS).update(skipped=(("10.5.9.0-24", "not JSON"),))
    assert status_file.read(tmp_path) == dataclasses.replace(STATUS, skipped=(("10.5.9.0-24", "not JSON"),))
    path = tmp_path / status_file.FILE
    written = json.loads(path.read_text())
    written["peers"][0]["invented_later"] = written["invented_later"] = 1
    path.write_text(json.dumps(written))
    assert status_file.read(tmp_path).subnet == "10.5.1.0/24"
    path.write_text("{")
    with pytest.raises(OverlaydError, match="cannot be read"):
        status_file.read(tmp_path)


def test_what_could_not_be_written_is_written_when_it_can_be(tmp_path: Path) -> None:
    blocked = [tmp_path / status_file.REACH_FILE, tmp_path / status_file.FILE]
    for path in blocked:
        path.mkdir()
    file = StatusFile(tmp_path, STATUS)
    file.update_reach((Reach(subnet="10.5.2.0/24", public_ip="198.18.1.2"),))
    file.update(state="waiting")
    for path in blocked:
        path.rmdir()
    file.update()
    assert status_file.read(tmp_path).state == "waiting"


def test_a_status_that_somebody_removed_or_changed_is_written_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    file, path = StatusFile(tmp_path, STATUS), tmp_path / status_file.FILE
    file.update()
    text, before = path.read_text(), path.stat()
    file.update()
    assert path.stat() == before
    path.write_text("{}")
    file.update()
    assert path.read_text() == text
    path.unlink()
    file.update()
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (90000, "1 d 1 h"), (86400, "1 d"), (-5, "0 s")],
)
def test_a_length_of_time_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_no_rows_are_no_lines() -> None:
    assert list(columns([])) == []
