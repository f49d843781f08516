"""Makes files in a container: a shell script runs in an image, without a network, and its result is copied out.

No folder is mounted writable. So the files belong to the user who builds, and a stopped build leaves none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from images.bases.base import Base
from images.engine import containers
from images.engine import target as targets
from images.engine.graph import Target
from images.engine.step import Step

# Where a script finds the target's files of the checkout, at the same paths.
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
    image: str = "freezer",
) -> Target:
    """A target: `script` runs in an image and makes `fetch`, which becomes `output` below the build folder.

    `mounts` are files and folders below the build folder, each with its place in the container; `files` of the checkout
    are at CHECKOUT. `code` is the module that defines the target. `image` is a name without `overlayd/` and tag.
    """

    def build(step: Step) -> None:
        places = {step.build / path: place for path, place in mounts.items()}
        make(step, base.tag(image), script, mounts=places, fetch=fetch, to=step.output(output))

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
    """Run `script` in an image of the layout, and copy the file or folder `fetch` that it made to `to`.

    `to` must not exist. `mounts` are files and folders of this machine, each with its place below /run in the
    container, read-only; the target's files of the checkout are at CHECKOUT. `fetch` is an absolute path and not below
    /run or /tmp, which are gone when the script ends. Raises BuildError.
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
    # By GNU tar, which never writes outside of the folder. The filters of Python's tarfile that see to this are missing
    # in Debian 12's Python 3.11.2.
    step.run(
        ["tar", "--extract", "--no-same-owner", "--no-same-permissions", f"--file={archive}", f"--directory={unpacked}"]
    )
    # In Docker's tar the paths begin with the last part of `fetch`.
    (unpacked / Path(fetch).name).rename(to)
    unpacked.rmdir()
    archive.unlink()
