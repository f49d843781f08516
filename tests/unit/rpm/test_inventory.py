"""The parts of the frozen program: each module and file belongs to a distribution, or is named as unknown."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import pytest

from rpm.inventory import collect


def test_a_module_belongs_to_the_distribution_that_recorded_its_file() -> None:
    owners = {
        "google/protobuf/any.py": "protobuf",
        "grpc/__init__.py": "grpcio",
        "PyInstaller/__init__.py": "pyinstaller",
    }
    assert collect._owner("google.protobuf.any", owners) == "protobuf"
    assert collect._owner("grpc", owners) == "grpcio"
    assert collect._owner("PyInstaller.pyiboot01_bootstrap", owners) == "pyinstaller"
    assert collect._owner("google", owners) is None


def test_every_file_of_this_environment_is_known_by_its_distribution() -> None:
    recorded = collect._recorded()
    assert recorded["invoke/tasks.py"] == "invoke"
    assert len(set(recorded.values())) > 10


@pytest.mark.parametrize("file", ["invoke-{}-py3-none-any.whl", "Invoke-{}.tar.gz"])
def test_a_distribution_is_known_by_version_and_the_sum_of_what_was_fetched(tmp_path: Path, file: str) -> None:
    version = metadata.version("invoke")
    (tmp_path / file.format(version)).write_bytes(b"the wheel")
    (tmp_path / "invokes-1.whl").write_bytes(b"another")
    found = collect._distribution("invoke", 3, tmp_path)
    assert found["version"] == version
    assert found["parts"] == 3
    assert found["sha256"] == hashlib.sha256(b"the wheel").hexdigest()


def test_a_library_that_belongs_to_no_package_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "libnobody.so.1").write_bytes(b"\x7fELF")
    assert collect._package_of(tmp_path / "libnobody.so.1") is None


def test_sources_that_a_project_took_from_others_are_known_by_names_in_its_extension(tmp_path: Path) -> None:
    (tmp_path / "grpc").mkdir()
    (tmp_path / "grpc/x.so").write_bytes(b"\x7fELF\0third_party/re2/re2/a.cc\0third_party/abseil-cpp/absl/b.h\0")
    (tmp_path / "grpc/x.txt").write_bytes(b"third_party/none/a.c")
    assert collect._linked(tmp_path) == {"re2", "abseil-cpp"}
