"""A small mirror of Debian 12 on disk: the signed indices that apt has here, and packages that a build fetched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from images.bases.catalogue.debian12_rpm import SUITE
from tests.testbed.packages import command

# apt keeps the lists in a compression of its own, so the mirror has them without: apt must not ask for another.
UNCOMPRESSED = 'Acquire::IndexTargets::deb::Packages::CompressionTypes "uncompressed"'
_ROW = "$(CREATED_BY)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(FILENAME)"


def indices() -> dict[str, Path]:
    """The list of packages of every suite of Debian 12, as apt keeps it; empty where it has none."""
    if shutil.which("apt-get") is None:
        return {}
    rows = [row.split("|") for row in command("apt-get", "indextargets", "--format", _ROW).splitlines()]
    return {
        suite: Path(file)
        for created, origin, suite, component, file in (row for row in rows if len(row) == 5)
        if (created, origin, component) == ("Packages", "Debian", "main")
        and suite.partition("-")[0] == SUITE.codename
        and Path(file).exists()
    }


def make(folder: Path, debs: Path) -> dict[str, str]:
    """The mirrors' URLs by site. `debs` is a folder of packages as apt names them; those in no index are left out."""
    fetched = {path.name: path for path in debs.glob("*.deb")}
    names = {name.partition("_")[0] for name in fetched}
    urls = {}
    for suite, file in indices().items():
        site = "security" if suite.endswith("-security") else "debian"
        place = folder / site
        urls[site] = f"file://{place}"
        inside = place / f"dists/{suite}"
        (inside / "main/binary-amd64").mkdir(parents=True)
        release = file.with_name(file.name.partition("_main_")[0] + "_InRelease")
        shutil.copy(release, inside / "InRelease")
        packages = inside / "main/binary-amd64/Packages"
        with packages.open("wb") as out:
            subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", file], stdout=out, check=True, timeout=60)
        for stanza in packages.read_text().split("\n\n"):
            # A stanza begins with its name; most are of packages that nobody fetched.
            if stanza.partition("\n")[0].removeprefix("Package: ") not in names:
                continue
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if line[:1].isupper() and ": " in line)
            version = fields["Version"].replace(":", "%3a")
            deb = fetched.get(f"{fields['Package']}_{version}_{fields['Architecture']}.deb")
            if deb is not None:
                (place / fields["Filename"]).parent.mkdir(parents=True, exist_ok=True)
                (place / fields["Filename"]).symlink_to(deb)
    return urls
