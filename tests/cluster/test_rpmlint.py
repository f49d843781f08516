"""rpmlint finds nothing in the spec and the package except what we filter, each filter with its reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from images.engine.place import ROOT
from rpm import source
from tests.testbed.cluster.packaged import built

pytestmark = pytest.mark.lane("builds")

CONFIG = ROOT / "rpm/rpmlint.toml"
FILTERS: list[str] = tomllib.loads(CONFIG.read_text())["Filters"]


@pytest.fixture(scope="module", autouse=True)
def _rpmlint() -> None:
    assert shutil.which("rpmlint"), "the tests need rpmlint: run `make system`"


@pytest.fixture(scope="module")
def unfiltered(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The output of rpmlint without filters, line by line."""
    config = tmp_path_factory.mktemp("rpmlint") / "config.toml"
    config.write_text(CONFIG.read_text().partition("Filters = [")[0])
    argv = ["rpmlint", "--config", str(config), str(ROOT / source.SPEC), str(built())]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_rpmlint_reports_nothing_unfiltered() -> None:
    argv = [sys.executable, "-m", "invoke", "rpm.lint"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 packages and 1 specfiles checked; 0 errors, 0 warnings" in done.stdout


@pytest.mark.parametrize("pattern", FILTERS)
def test_a_filter_is_still_needed(unfiltered: list[str], pattern: str) -> None:
    assert any(re.search(pattern, line) for line in unfiltered), "nothing that rpmlint says matches it: remove it"


def test_every_filter_has_its_reason() -> None:
    lines = CONFIG.read_text().partition("Filters = [\n")[2].splitlines()
    groups = re.split(r"\n(?=    #)", "\n".join(lines))
    assert all(group.lstrip().startswith("# ") for group in groups), groups
    assert sum(group.count('",') for group in groups) == len(FILTERS)


def test_links_lead_to_files_of_the_package() -> None:
    listed = subprocess.run(
        ["rpm", "--query", "--package", "--queryformat", "[%{FILENAMES}\\t%{FILELINKTOS}\\n]", built()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    links = dict(line.split("\t") for line in listed.splitlines())
    for path, target in links.items():
        if target:
            assert os.path.normpath(Path(path).parent / target) in links, f"{path} leads to {target}"
