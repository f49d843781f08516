"""The files that keep udev, networkd and NetworkManager from our devices match our devices and no others."""

from __future__ import annotations

import configparser
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from overlayd.lib import marks
from tests.unit.host.test_other_networks import devices

ROOT = Path(__file__).resolve().parents[3]
UNITS = ROOT / "rpm/units"
# The names that backends use: overlay.<VNI>, overlay-v6.<VNI> and so on.
OURS: tuple[str, ...] = (
    "overlay.1",
    "overlay.16777215",
    "overlay-v6.1",
    "overlay0",
    "overlay.ipip",
    "overlay-wg",
    "overlay-wg-v6",
)
# Names in networks other than 0.
OURS += ("overlay1.1", "overlay1xffffff", "overlay9-ffffff", "overlay9-v6.1", "overlay9", "overlay1-wg-v6")
OTHERS = ("eth0", "docker0", "overlay", "overlayfs0", "overlay00", "myoverlay.1", "flannel.1", "vethoverlay-")


def read(name: str) -> configparser.ConfigParser:
    # configparser reads NetworkManager's `+` of `+=` as part of the key.
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


def patterns() -> dict[str, list[str]]:
    manager = read("overlayd-networkmanager.conf")
    lists = {
        "link": read("overlayd.link")["Match"]["OriginalName"].split(),
        "network": read("overlayd.network")["Match"]["Name"].split(),
    }
    for section, key in (("keyfile", "unmanaged-devices+"), ("device-overlayd", "match-device")):
        words = manager[section][key].split(";")
        assert all(word.startswith("interface-name:") for word in words)
        lists[section] = [word.removeprefix("interface-name:") for word in words]
    return lists


@pytest.mark.parametrize("where", list(patterns()))
def test_every_device_of_ours_is_left_alone_and_no_other(where: str) -> None:
    globs = patterns()[where]
    for name in OURS:
        assert any(fnmatchcase(name, glob) for glob in globs), name
    for name in OTHERS:
        assert not any(fnmatchcase(name, glob) for glob in globs), name
    # NetworkManager knows only * and ?.
    assert not re.search(r"[][]", "".join(globs))


def test_the_files_set_nothing_except_that_devices_are_left_alone() -> None:
    assert dict(read("overlayd.link")["Link"]) == {"MACAddressPolicy": "none"}
    assert dict(read("overlayd.network")["Link"]) == {"Unmanaged": "yes"}
    assert read("overlayd-networkmanager.conf")["device-overlayd"]["managed"] == "0"


def test_the_device_names_of_all_backends_are_matched() -> None:
    named = devices(0) | devices(1) | devices(9)
    marks.use(0)
    for globs in patterns().values():
        for name in named:
            assert any(fnmatchcase(name, glob) for glob in globs), name
