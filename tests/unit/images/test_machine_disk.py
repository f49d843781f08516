"""What a machine's disk is made of."""

from __future__ import annotations

import subprocess

from images.engine.place import ROOT
from images.machine.recipe import LOADERS
from tests.testbed.needs import needs


@needs("dpkg", "syslinux", "qemu-img")
def test_its_loaders_come_with_the_packages_that_make_system_installs() -> None:
    lines = (ROOT / "requirements/system-debian.txt").read_text().splitlines()
    listed = {name for line in lines for word in line.partition("#")[0].split() for name in word.split("/")}
    for file in LOADERS:
        shown = subprocess.run(["dpkg", "--search", file], capture_output=True, text=True, check=True).stdout
        # A package that another one only recommends is not installed with it.
        assert shown.partition(":")[0] in listed, shown
