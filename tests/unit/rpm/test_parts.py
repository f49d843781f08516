"""Licences of what the RPM bundles: each part is in the table, and one expression names them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cyclonedx import spdx

from images.engine.place import ROOT
from rpm import source
from rpm.inventory import licences, parts
from tests.testbed.needs import needs

FOLDER = ROOT / "rpm/licenses"
TABLE = parts.load((FOLDER / "parts.toml").read_text())
SMALL = """\
[versions]
grpcio = "1.2"
[[part]]
name = "glibc"
packages = ["libc6", "glibc"]
spdx = "LGPL-2.1-or-later AND ISC"
why = "C"
[[part]]
name = "grpcio"
spdx = "Apache-2.0"
why = "g"
[[part]]
name = "re2"
inside = "grpcio"
spdx = "BSD-3-Clause"
texts = ["re2.txt"]
why = "r"
[[part]]
name = "typing_extensions"
spdx = "PSF-2.0"
why = "t"
[[part]]
name = "program"
files = ["overlayd/x.o"]
spdx = "GPL-2.0-only OR BSD-2-Clause"
why = "p"
[[part]]
name = "pyroute2"
spdx = "GPL-2.0-or-later OR Apache-2.0"
why = "p"
"""


def inventory(**changes: Any) -> dict[str, Any]:
    return {
        "distributions": [{"name": "grpcio", "version": "1.2"}, {"name": "pyroute2", "version": "1"}],
        "libraries": [{"file": "libc.so.6", "package": {"name": "libc6"}}],
        "own": [],
        "linked": ["re2"],
        "unknown": [],
        **changes,
    }


def bundled(**changes: Any) -> list[str]:
    return [part.name for part in parts.bundled(inventory(**changes), parts.load(SMALL))]


def test_parts_are_known_by_package_distribution_and_what_they_are_inside_of() -> None:
    assert bundled() == ["glibc", "grpcio", "pyroute2", "re2"]
    assert bundled(distributions=[{"name": "Typing-Extensions", "version": "4"}], linked=[]) == [
        "glibc",
        "typing_extensions",
    ]
    assert bundled(own=["overlayd/x.o"]) == ["glibc", "grpcio", "program", "pyroute2", "re2"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distributions": [{"name": "surprise", "version": "1"}], "linked": []}, "the distribution surprise"),
        ({"libraries": [{"file": "libx.so", "package": {"name": "libx1"}}]}, "the package libx1"),
        ({"linked": ["re2", "lua"]}, "lua, which is linked into an extension"),
        ({"distributions": [{"name": "grpcio", "version": "1.3"}]}, "what is linked into grpcio 1.3, only of 1.2"),
        ({"own": ["overlayd/x.o", "overlayd/y.o"]}, "the file overlayd/y.o"),
        ({"unknown": ["file blob.bin"]}, "file blob.bin"),
    ],
)
def test_a_part_missing_from_the_table_is_an_error_that_names_it(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(parts.UnknownPart, match=re.escape(said)):
        bundled(**changes)


def test_the_expression_has_overlayds_own_licence_first_and_each_other_once() -> None:
    found = parts.bundled(inventory(), parts.load(SMALL))
    assert parts.expression(found) == (
        "Apache-2.0 AND (GPL-2.0-or-later OR Apache-2.0) AND BSD-3-Clause AND ISC AND LGPL-2.1-or-later"
    )


def test_an_expression_is_taken_apart_only_where_all_of_it_holds() -> None:
    assert parts.clauses("A AND (B AND C OR D) AND E WITH F") == ["A", "(B AND C OR D)", "E WITH F"]
    assert parts.clauses("A OR B") == ["(A OR B)"]


@pytest.mark.parametrize("part", TABLE.parts, ids=lambda part: part.name)
def test_a_row_of_the_table_names_licences_of_spdx_and_texts_that_are_there(part: parts.BundledPart) -> None:
    assert spdx.is_expression(re.sub(r"LicenseRef-\w+", "MIT", part.spdx))
    assert part.why
    assert all((FOLDER / name).stat().st_size for name in part.texts)
    # Only the table has licence texts of parts that are linked in.
    assert part.texts or not (part.inside or part.files)


def test_the_whole_table_is_one_expression_of_spdx() -> None:
    assert spdx.is_expression(re.sub(r"LicenseRef-\w+", "MIT", parts.expression(TABLE.parts)))


def test_the_table_holds_for_the_versions_that_are_frozen() -> None:
    lock = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / source.LOCK).read_text(), flags=re.MULTILINE))
    assert {name: lock[name] for name in TABLE.versions} == dict(TABLE.versions)
    assert {part.inside for part in TABLE.parts if part.inside} <= set(TABLE.versions)


def test_every_licence_text_is_used_by_a_part() -> None:
    used = {name for part in TABLE.parts for name in part.texts}
    assert {path.name for path in FOLDER.iterdir()} == used | {"parts.toml"}


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "spdx": "MIT", "why": "x", "packages": [], "inside": None, "source": "", "texts": [], **more}


def test_texts_are_collected_by_part_with_the_table_and_the_expression(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    found = {"parts": [row("a", inside="invoke", texts=["a.txt"]), row("invoke", spdx="BSD-2-Clause")]}
    licences.collect(found, tmp_path, tmp_path / "out")
    assert (tmp_path / "out/texts/a/a.txt").read_text() == "a"
    assert "Redistribution" in (tmp_path / "out/texts/invoke/LICENSE").read_text()
    assert (tmp_path / "out/expression").read_text() == "Apache-2.0 AND BSD-2-Clause AND MIT\n"
    assert "| a | MIT | x |" in (tmp_path / "out/texts/README.md").read_text()


# Packages are asked.
@needs("rpm")
def test_a_part_without_a_text_is_an_error_that_names_it(tmp_path: Path) -> None:
    found = {"parts": [row("a", inside="b"), row("none", packages=["package-that-is-not"])]}
    with pytest.raises(licences.NoText, match="a, none"):
        licences.collect(found, tmp_path, tmp_path / "out")


def test_a_text_that_two_parts_have_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "b.txt").write_text("same")
    found = {"parts": [row("a", inside="x", texts=["a.txt"]), row("b", inside="x", texts=["b.txt"])]}
    licences.collect(found, tmp_path, tmp_path / "out")
    assert (tmp_path / "out/texts/b/b.txt").readlink() == Path("../a/a.txt")
    assert (tmp_path / "out/texts/b/b.txt").read_text() == "same"
