"""What an idle daemon holds in memory, and that everything runs without what is left out."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.engine.place import ROOT
from overlayd.lib import slim_imports
from rpm import source
from rpm.freeze import freeze, left_out

DAEMON = ROOT / source.DAEMON
# Loaded when somebody asks for what they do.
ON_DEMAND = (
    "overlayd.commands",
    "overlayd.doctor",
    "overlayd.probe",
    "overlayd.flannel",
    "overlayd.monitoring.http_server",
)

LIBRARIES = {"etcd3", "google", "grpc", "jeepney"}
# Of each of them, what may be there.
PARTS = {
    "etcd3": {"etcdrpc"},
    "grpc": {"_common", "_compression", "_cython", "_grpcio_metadata", "_observability", "_runtime_protos", "_typing"},
    "jeepney": {"auth", "bus", "bus_messages", "fds", "io", "low_level", "wrappers"},
}
# What costs much in the standard library, and comes easily with something else.
DEAR = {
    "asyncio",
    "decimal",
    "email",
    "http",
    "multiprocessing",
    "sqlite3",
    "ssl",
    "tarfile",
    "unittest",
    "urllib.request",
    "xml",
}

LOADER = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in refused):
            raise ModuleNotFoundError(f"{name} is left out", name=name)

refused, wanted = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refuse())
for name in wanted:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded(wanted: list[str], *, refused: list[str]) -> set[str]:
    """The modules there are after importing `wanted` in a Python of its own, where `refused` cannot be imported."""
    done = subprocess.run(
        # Without site: its .pth files import what they like.
        [sys.executable, "-S", "-c", LOADER, json.dumps([refused, wanted])],
        env={"PYTHONPATH": ":".join([str(DAEMON), *(place for place in sys.path if place.endswith("-packages"))])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout)
    return set(names)


@pytest.fixture(scope="module")
def idle() -> set[str]:
    """All modules of a daemon, whichever backend it has."""
    ours = [name for name in freeze.modules(DAEMON) if not name.startswith(ON_DEMAND)]
    return loaded([*ours, "overlayd.commands.run"], refused=[])


def test_an_idle_daemon_holds_four_libraries(idle: set[str]) -> None:
    tops = {name.partition(".")[0] for name in idle}
    # What Cython's modules share is a module too.
    foreign = {name for name in tops - sys.stdlib_module_names if not name.startswith(("_cython", "cython_runtime"))}
    assert foreign - {"__main__", "overlayd"} == LIBRARIES


@pytest.mark.parametrize("library", PARTS)
def test_of_each_library_it_holds_what_it_uses(idle: set[str], library: str) -> None:
    parts = {name.split(".")[1] for name in idle if name.startswith(f"{library}.")}
    assert parts <= PARTS[library]


def test_it_holds_nothing_that_is_left_out_or_dear(idle: set[str]) -> None:
    # In these tests hashlib has OpenSSL.
    forbidden = (set(left_out.modules()) - {"_hashlib"}) | DEAR
    # The standard library tries compressors whenever it can.
    forbidden -= {"_bz2", "_lzma", "bz2", "lzma"}
    assert not idle & forbidden


def test_all_of_the_program_loads_without_what_is_left_out() -> None:
    everything = freeze.modules(DAEMON)
    found = loaded(everything, refused=list(left_out.modules()))
    assert set(everything) <= found


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that breaks when it is run, with a module `part` that imports `helper_of_it`."""
    name = "package_that_breaks"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('run')")
    (tmp_path / name / "part.py").write_text("import helper_of_it\nvalue = helper_of_it.value\n")
    (tmp_path / "helper_of_it.py").write_text("value = 'real'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for loaded_name in [one for one in sys.modules if one.startswith((name, "helper_of_it"))]:
        del sys.modules[loaded_name]


def part_of(package: str) -> object:
    return __import__(f"{package}.part", fromlist=["value"]).value


def test_a_bare_package_is_not_run_and_its_modules_are(package: str) -> None:
    with slim_imports.importing(
        bare=[package], without={"helper_of_it": slim_imports.module("helper_of_it", value="stand-in")}
    ):
        assert part_of(package) == "stand-in"
    assert __import__("helper_of_it").value == "real"


def test_what_was_there_before_stays_what_it_was(package: str) -> None:
    real = __import__("helper_of_it")
    with slim_imports.importing(bare=[package], without={"helper_of_it": None}):
        assert part_of(package) == "real"
    assert sys.modules["helper_of_it"] is real


def test_a_failed_import_leaves_no_stand_in(package: str) -> None:
    with pytest.raises(ModuleNotFoundError), slim_imports.importing(bare=[package], without={"helper_of_it": None}):
        part_of(package)
    assert "helper_of_it" not in sys.modules


def test_a_package_that_is_not_installed_is_named() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match="no_such_package is not installed"),
        slim_imports.importing(bare=["no_such_package"], without={}),
    ):
        pass


def test_what_was_kept_from_collection_is_looked_at_again_the_next_time() -> None:
    class Circle:
        """Something that only a collection frees."""

        def __init__(self) -> None:
            self.own = self

    gone = weakref.ref(kept := Circle())
    try:
        slim_imports.give_back()
        assert gc.get_freeze_count() > 0
        del kept
        gc.collect()
        assert gone() is not None
        slim_imports.give_back()
        assert gone() is None
    finally:
        gc.unfreeze()
