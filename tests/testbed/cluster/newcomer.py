"""A machine as a newcomer has it: Debian 12 with make and git and nothing more, an empty environment, a fresh clone.

It is a container without systemd in which a dockerd can run. Where packages come from is this machine's own business:
its apt sources, its CA bundle and its pip's settings are copied there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from docker.models.containers import Container

from images.bases.catalogue.debian12_rpm import BASE, SUITE
from images.bases.debian import sources
from images.engine import sandbox
from overlayd.errors import OverlaydError
from overlayd.lib import process
from tests.testbed.cluster import cgroups, docker_engine, plan, roots
from tests.testbed.cluster.checkout import checkout
from tests.testbed.cluster.create import ROOT

# Of this checkout: another one's tests may run on the same dockerd.
LABEL = "org.overlayd.newcomer"
# What a fresh installation has and minbase has not.
_PACKAGES = ("make", "git", "ca-certificates")
_BOOTSTRAP_S = 600.0
_CAS = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP_OPTION = re.compile(r"^(?:global|install|:env:)\.(index-url|extra-index-url|trusted-host|cert|proxy)='(.*)'$")
# It reaps orphans, as an init does: a test that waits for the end of a process looks whether it still exists.
_INIT = ["sh", "-c", "sleep infinity & wait"]
ENVIRONMENT = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")


@dataclass(frozen=True)
class Newcomer:
    """The machine. The output of all commands goes to `log`."""

    container: Container
    log: Path

    def run(self, script: str, *, status: int = 0, timeout_s: float = 60.0) -> str:
        """Run a shell script in an empty environment; its stdout and stderr. Raises OverlaydError on another status."""
        argv = ["docker", "exec", str(self.container.id), *ENVIRONMENT, "sh", "-euc", script]
        begin = time.monotonic()
        with self.log.open("a+b", buffering=0) as log:
            log.write(f"$ {script}\n".encode())
            start = log.tell()
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout_s, check=False
            )
            log.seek(start)
            output = log.read().decode(errors="replace")
            log.write(f"[status {done.returncode}, {time.monotonic() - begin:.1f} s]\n".encode())
        if done.returncode != status:
            raise OverlaydError(f"{script}\n  ended with status {done.returncode}: {output[-4000:]}\n  all: {self.log}")
        return output

    def put(self, name: str, content: bytes) -> None:
        """Write one file."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        self.container.put_archive("/", packed.getvalue())

    def processes(self) -> list[str]:
        """The command lines of all that runs, but for the container's own first process."""
        shown = self.container.top(ps_args="-eo pid,args")
        lines = [str(row[1]) for row in shown["Processes"]]
        return [line for line in lines if line not in (shlex.join(_INIT).replace("'", ""), "sleep infinity")]


@contextmanager
def machine(log: Path, *, caches: dict[Path, str] | None = None) -> Iterator[Newcomer]:
    """A bare machine with the checkout, as it is now, in /root/origin, for the length of the block.

    `caches` are folders of this machine by where they are mounted there.
    """
    _remove_old()
    image = _imported(bare_root())
    try:
        container = _started(image, caches or {})
        try:
            found = Newcomer(container, log)
            found.put(str(_CAS), _CAS.read_bytes())
            found.put("/etc/pip.conf", pip_configuration().encode())
            # As in Debian's own container images: a machine that is thrown away has nothing to lose in a crash.
            found.put("/etc/dpkg/dpkg.cfg.d/unsafe-io", b"force-unsafe-io\n")
            _give_origin(found)
            yield found
        finally:
            _remove(container)
    finally:
        docker_engine.client().images.remove(image, force=True)


def bare_root() -> Path:
    """Debian 12 as a tar, made now if it is not in build/cache. Interrupted, it leaves nothing."""
    lines = sources.lines(SUITE, BASE)
    digest = hashlib.sha256(repr((lines, _PACKAGES)).encode()).hexdigest()[:12]
    place = ROOT / roots.CACHE / f"bare-{SUITE.codename}-{digest}.tar"
    if place.exists():
        return place
    sandbox.require("mmdebstrap", "unshare", "setpriv")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as folder:
        tar = Path(folder) / "root.tar"
        argv = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
        argv += [SUITE.codename, str(tar), *lines]
        process.run([str(word) for word in sandbox.isolated(argv)], timeout_s=_BOOTSTRAP_S)
        tar.rename(place)
    return place


def pip_configuration() -> str:
    """This machine's pip settings about indexes, from files and variables, as one pip.conf; the last value counts."""
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    options = {match[1]: match[2] for line in listed.splitlines() if (match := _PIP_OPTION.match(line))}
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())


def lowest() -> dict[str, tuple[str, tuple[str, ...]]]:
    """requirements/lowest: version and Debian packages, by name."""
    rows = [line.split() for line in (ROOT / "requirements/lowest").read_text().splitlines() if line[:1] != "#"]
    return {name: (version, tuple(filter("-".__ne__, debian.split(",")))) for name, version, debian, _ in rows}


def _imported(tar: Path) -> str:
    answer = docker_engine.client().api.import_image_from_file(str(tar), changes=[f"LABEL {LABEL}={ROOT}"])
    return str(answer).strip().rpartition('"status":"')[2].partition('"')[0]


def _started(image: str, caches: dict[Path, str]) -> Container:
    config = plan.host_config("bridge", {}, privileged=False)
    # A tmpfs on /tmp is for systemd's sake; here it would be a noexec one.
    config["Tmpfs"] = {"/run": ""}
    config["Binds"] = [*config["Binds"], *(f"{folder}:{place}" for folder, place in caches.items())]
    api = docker_engine.client().api
    made = api.create_container(
        image, _INIT, labels={LABEL: str(ROOT)}, host_config=config, volumes=["/var/lib/docker"], hostname="newcomer"
    )
    container = docker_engine.client().containers.get(made["Id"])
    try:
        container.start()
    except BaseException:
        container.remove(force=True, v=True)
        raise
    return container


def _give_origin(found: Newcomer) -> None:
    with tempfile.TemporaryDirectory(prefix="overlayd-newcomer-") as folder:
        origin = Path(folder) / "origin"
        checkout(origin)
        git = ["git", "-C", str(origin), "-c", "user.name=test", "-c", "user.email=test@localhost"]
        # A clone has only what is committed.
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=as it is now"], check=True)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(origin, arcname="root/origin")
        found.container.put_archive("/", packed.getvalue())


def _remove(container: Container) -> None:
    inside: Sequence[str] = ()
    with contextlib.suppress(OverlaydError, subprocess.SubprocessError):
        inside = docker_engine.run_in(
            container, ["timeout", "5", "docker", "ps", "--all", "--quiet", "--no-trunc"]
        ).split()
    container.remove(force=True, v=True)
    cgroups.sweep([str(container.id), *inside])


def _remove_old() -> None:
    """What a killed run left."""
    label = f"{LABEL}={ROOT}"
    for container in docker_engine.client().containers.list(all=True, filters={"label": label}, ignore_removed=True):
        _remove(container)
    for image in docker_engine.client().images.list(filters={"label": label}):
        docker_engine.client().images.remove(str(image.id), force=True)
