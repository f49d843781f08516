"""The short names: up, down, check, fmt, one, test, lock, clean. Each ends what it began."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from images.engine import docker_images, dockerd, preflight, runner
from images.engine.place import PLACE
from images.engine.progress import report
from pipeline.image_tasks import build_all
from tests import side_by_side
from tests.testbed.cluster import bootable, docker_engine
from tests.testbed.cluster import task_collection as cluster

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("daemon", "freeze", "dev")
# What needs etcd, root, Docker or seconds of processor is marked `needs`.
QUICK = "not slow and not needs"


@task(
    help={
        "backend": "vxlan, host-gw or udp",
        "base": "base image (default: the first whose repositories answer)",
        "underlay": cluster.UNDERLAY_HELP,
    }
)
def up(c: Context, backend: str = "vxlan", base: str | None = None, underlay: str | None = None) -> None:
    """Build what is missing, start a cluster of three hosts, and show that their containers talk."""
    # Before a build of minutes.
    cluster.requested_cluster(backend=backend, underlay=underlay)
    if base is not None:
        bootable.require(base)
    preflight.check()
    dockerd.ensure()
    build_all(c, base=base)
    cluster.up(c, backend=backend, base=base, underlay=underlay)
    cluster.show(c)


@task
def down(c: Context) -> None:
    """Remove the cluster, and the dockerd that `up` started."""
    problem = dockerd.unreachable()
    if problem is None:
        cluster.down(c)
    else:
        dockerd.require_permission(problem)
        report(f"no dockerd answers ({problem}): there is no cluster to remove")
    if why := dockerd.stop():
        report(why)


@task
def check(c: Context) -> None:
    """Lint, types, and the unit tests that are quick and need no root, no etcd and no Docker."""
    runs = min(len(os.sched_getaffinity(0)), side_by_side.RUNS)
    if not side_by_side.run(["-m", QUICK, "--hypothesis-profile=few"], ["tests/unit"], runs=runs):
        raise Exit("the check failed", code=1)


@task
def fmt(c: Context) -> None:
    """Format all code, and mend what the linter can mend."""
    for words in (["check", "--fix", "."], ["format", "."]):
        # Both are wanted where the first has something left to say, too.
        if subprocess.run([sys.executable, "-m", "ruff", *words], cwd=ROOT, check=False).returncode != 0:
            report(f"ruff {words[0]} has more to say than it can mend")


@task(name="one", help={"test": "a file of tests, or one test: tests/kernel/test_ping.py::test_x; options of pytest"})
def run_one(c: Context, test: str = "") -> None:
    """Run one test, slow or not. Nothing is built: a test of the cluster takes the images that are there."""
    words = shlex.split(test)
    if not words:
        raise Exit("no test was given; as: make one T=tests/kernel/test_ping.py", code=2)
    folders = {folder for folder in ("kernel", "cluster", "machines") for word in words if f"tests/{folder}" in word}
    if folders and os.geteuid() != 0:
        raise Exit(f"tests of tests/{min(folders)} make namespaces, containers or machines; run this as root", code=1)
    has_images = bool(folders & {"cluster", "machines"})
    with dockerd.running() if has_images else nullcontext():
        if has_images:
            # Raises with what to do where no image is built.
            docker_engine.newest_base()
        done = c.run(shlex.join([sys.executable, "-m", "pytest", *words]), warn=True, pty=sys.stdout.isatty())
    if done is None or not done.ok:
        raise Exit("", code=1)


@task(
    name="test",
    help={
        "only": "paths or pytest options (default: all tests)",
        "all": "also those that are marked slow",
        "junit": "a file to write the results to, as JUnit XML (default: none)",
        "build": "build what is missing before (default: yes)",
    },
)
def run_tests(
    c: Context,
    only: str = "",
    all: bool = False,  # noqa: A002  # an option's name
    junit: str = "",
    build: bool = True,
) -> None:
    """Run the tests: lint and types, unit, kernel, cluster, several at once. What it started, it stops."""
    preflight.check()
    which = [] if all else ["-m", "not slow"]
    with dockerd.running():
        if build:
            build_all(c)
        if junit:
            runs = 1 if only else side_by_side.RUNS
            well = side_by_side.run(which, shlex.split(only), runs=runs, junit=Path(junit).absolute())
        elif only:
            argv = [sys.executable, "-m", "pytest", *which]
            done = c.run(f"{shlex.join(argv)} {only}", warn=True, pty=sys.stdout.isatty())
            well = done is not None and done.ok
        else:
            well = side_by_side.run(which, runs=side_by_side.RUNS)
    if not well:
        raise Exit("tests failed; what a failed cluster left is in build/clusters", code=1)


@task
def lock(c: Context) -> None:
    """Make the hashed locks in requirements/ anew from pyproject.toml."""
    for name in EXTRAS:
        wanted = "" if name == "daemon" else f"--extra {name}"
        c.run(
            "pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header "
            "--no-emit-index-url --no-emit-find-links --no-emit-trusted-host "
            f"{wanted} --output-file {ROOT}/requirements/{name}.txt {ROOT}/pyproject.toml",
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        )


@task(help={"gone": "also images that Docker keeps for checkouts that are not there (any more)"})
def clean(c: Context, gone: bool = False) -> None:
    """Remove what was built, but not what was fetched. Images keep their names: docker image rm."""
    preflight.check()
    with runner.build_folder_locked(PLACE):
        if dockerd.answers():
            removed, in_use = docker_images.forget(PLACE.owner, gone=gone)
            for tag in removed:
                report(f"removed {tag}")
            for tag in in_use:
                report(f"left {tag}: a container uses it (docker ps --all --filter ancestor={tag})")
        for path in PLACE.build.glob("*"):
            # The lock is what we hold.
            if path.name not in ("cache", "lock"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


namespace = Collection(up, down, check, fmt, run_one, run_tests, lock, clean)
