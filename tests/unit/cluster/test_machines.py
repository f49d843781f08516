"""What a cluster of machines is described by, and how its machines are known."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from overlayd.errors import ConfigError
from tests.testbed.cluster import options, qemu, virtual_machine
from tests.testbed.cluster.description import Cluster, from_label
from tests.testbed.polling import eventually


def test_a_label_tells_of_machines_and_their_kernel_and_one_of_before_means_containers() -> None:
    cluster = Cluster(base="b", machines=True, kernel="6.12")
    assert from_label(cluster.to_label()) == cluster
    older = cluster.to_label().replace('"kernel": "6.12", ', "").replace('"machines": true, ', "")
    assert from_label(older) == Cluster(base="b")


def test_a_kernel_is_for_machines_and_one_that_can_be_fetched() -> None:
    with pytest.raises(ConfigError, match=r"kernel is 6\.1, and the hosts are containers"):
        Cluster(base="b", kernel="6.1")
    with pytest.raises(ConfigError, match=r"kernel is '3\.10'\n  allowed: 5\.10, 6\.1, 6\.12"):
        options.kernel("3.10")
    assert options.kernel("") == ""


def test_each_address_has_a_hardware_address_of_its_own() -> None:
    assert virtual_machine.mac(IPv4Address("198.18.40.11")) == "52:54:c6:12:28:0b"


def test_a_machine_is_known_by_its_folder_and_no_other_process_is_killed_for_it(tmp_path: Path) -> None:
    # What QEMU's command line looks like to others; what it does is not asked here.
    words = ["import time; time.sleep(60)", "-daemonize", "-pidfile"]
    folders = [tmp_path / "one", tmp_path / "other"]
    processes = [subprocess.Popen([sys.executable, "-c", *words, str(folder / "qemu.pid")]) for folder in folders]
    try:
        one, other = processes
        eventually("both run", lambda: all(map(qemu.running, folders)))
        assert qemu.running(folders[0]) == [one.pid]
        assert qemu.running(tmp_path) == []
        # It is our child, which stays a zombie until it is waited for; a zombie has no command line.
        assert qemu.kill(folders[0]) == 1
        assert one.wait(10) == -9
        assert other.poll() is None
        assert qemu.kill(folders[0]) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
