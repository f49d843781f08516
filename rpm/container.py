"""Files made in a container: a shell script runs in an image, without a network, and what it left is fetched.

Nothing is mounted to be written to, so what is fetched belongs to whoever builds, and a stopped build leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from images.bases.base import Base
from images.engine import containers, inputs
from images.engine.graph import Target
from images.engine.step import Step
from rpm import source


def target(
    *,
    name: str,
    base: Base,
    script: str,
    mounts: Mapping[Path, str],
    fetch: str,
    output: Path,
    files: Iterable[Path],
    needs: tuple[str, ...],
) -> Target:
    """The target whose `output`, below the build folder, is what `script` makes at `fetch` in the freezer image.

    `mounts` are as for `make`; those that are no absolute paths lie below the build folder. `files` of the checkout are
    its inputs, beside the script and what it needs.
    """

    def build(step: Step) -> None:
        places = {step.build / path: place for path, place in mounts.items()}
        make(step, base.tag("freezer"), script, mounts=places, fetch=fetch, to=step.output(output))

    return Target(
        name=name,
        build=build,
        inputs=inputs.of_values(script=script) | inputs.of_files(source.ROOT, files),
        needs=needs,
        outputs=(output,),
    )


def make(step: Step, image: str, script: str, *, mounts: Mapping[Path, str], fetch: str, to: Path) -> None:
    """Run `script` in `image` and put the folder `fetch` that it made at `to`, which must not exist.

    `mounts` are folders of this machine by their place below /run inside, readable only. `fetch` is an absolute path,
    not below /run or /tmp: these are gone when the script ends. Raises BuildError.
    """
    archive = step.scratch / "fetched.tar"
    with (
        containers.engine() as client,
        containers.work_container(client, image, script, mounts=mounts, owner=step.owner, stop=step.stop) as container,
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
