"""Files made in a container: a shell script runs in an image, without a network, and what it left is fetched.

Nothing is mounted to be written to, so what is fetched belongs to whoever builds, and a stopped build leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from images.bases.base import Base
from images.engine import containers
from images.engine import target as targets
from images.engine.graph import Target
from images.engine.step import Step

# Where a script finds the target's files of the checkout, each at its place below it.
CHECKOUT = "/run/checkout"


def target(
    *,
    name: str,
    base: Base,
    code: Path,
    script: str,
    mounts: Mapping[Path, str],
    fetch: str,
    output: Path,
    files: Iterable[Path],
    needs: tuple[str, ...],
) -> Target:
    """The target whose `output`, below the build folder, is what `script` makes at `fetch` in the freezer image.

    `mounts` are folders below the build folder by their place inside; `files` of the checkout are found at CHECKOUT.
    `code` is the module that defines the target.
    """

    def build(step: Step) -> None:
        places = {step.build / path: place for path, place in mounts.items()}
        make(step, base.tag("freezer"), script, mounts=places, fetch=fetch, to=step.output(output))

    return targets.target(
        name=name,
        build=build,
        code=[code, Path(__file__)],
        values={"script": script},
        files=files,
        needs=needs,
        outputs=(output,),
    )


def make(step: Step, image: str, script: str, *, mounts: Mapping[Path, str], fetch: str, to: Path) -> None:
    """Run `script` in an image of the layout and put the folder `fetch` that it made at `to`, which must not exist.

    `mounts` are folders of this machine by their place below /run inside, readable only; the target's files of the
    checkout are at CHECKOUT. `fetch` is an absolute path, not below /run or /tmp: these are gone when the script ends.
    Raises BuildError.
    """
    parent = step.docker_id(image)
    mounts = {**mounts, step.checkout: CHECKOUT}
    archive = step.scratch / "fetched.tar"
    with (
        containers.engine() as client,
        containers.work_container(client, parent, script, mounts=mounts, owner=step.owner, stop=step.stop) as container,
    ):
        containers.run_to_end(client, container, step.log, step.stop)
        chunks, _stat = client.get_archive(container, fetch)
        with archive.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
    unpacked = step.scratch / "fetched"
    unpacked.mkdir()
    # Not by Python's tarfile: its safe extraction needs a newer Python than Debian 12's 3.11.2. GNU tar has always
    # dropped what would lead out of the folder.
    step.run(
        ["tar", "--extract", "--no-same-owner", "--no-same-permissions", f"--file={archive}", f"--directory={unpacked}"]
    )
    # Docker's tar begins with the last part of the path.
    (unpacked / Path(fetch).name).rename(to)
    unpacked.rmdir()
    archive.unlink()
