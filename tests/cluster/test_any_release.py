"""One RPM for all releases: it is installed and runs where the C library is older and where it is newer than ours.

Debian's releases stand in for EL's. What matters is the C library (2.31 and 2.41; EL 8 to 10 have 2.28, 2.34, 2.39)
and the rpm that has to read the package (4.16, 4.20). Debian's rpm does not know Debian's packages, so it must not
check dependencies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlayd import __version__
from rpm.targets import FROZEN, INSTALLED
from tests.testbed.cluster import roots
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.packaged import built
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import ETCD, NETWORK, Host, Lab, laboratory
from tests.testbed.polling import eventually

RELEASES = {"older": roots.OLDER, "newer": roots.NEWER}
RPM = "/root/overlayd.rpm"
TOLD = Path("run/told")
PROGRAMS = "/usr/local/sbin"
# It records its environment and which files it has mapped; then it answers, or executes the real program.
WRAPPER = f"""\
#!/bin/sh
name=${{0##*/}}
{{ env; cat /proc/$$/maps; }} >/{TOLD}/$name.new
mv /{TOLD}/$name.new /{TOLD}/$name
"""
# The programs that the daemon and its extension backend run. There is neither systemd nor docker: these stand-ins say
# that docker runs with another address than the lease and has a container, so that it may not be restarted.
CHILDREN = {
    **{name: f'exec /usr/sbin/{name} "$@"' for name in ("iptables", "iptables-save", "iptables-restore")},
    "systemctl": "printf '%s\\n' LoadState=loaded ActiveState=active UnitFileState=enabled Job=0 "
    "'DropInPaths=/50-overlayd.conf /zz-overlayd.conf'",
    "docker": "echo 0123456789ab",
    "extension": "",
}


class Installed:
    """The package in a root filesystem, on a host of a lab."""

    def __init__(self, root: Path, lab: Lab, host: Host) -> None:
        self.root, self.lab, self.host = root, lab, host
        self._status = root / "run/overlayd/status.json"

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the root, on the host's network."""
        words = [*self.host.enter, *roots.command(self.root, argv, variables=variables)]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    def say(self, *argv: str, **variables: str) -> str:
        """The output of a command, which must succeed without an error message."""
        done = self.run(*argv, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def transaction(self, what: str, package: str) -> None:
        """Let rpm install, upgrade or erase; asserts that it and every scriptlet succeed."""
        done = self.run("rpm", what, "--nodeps", package)
        assert done.returncode == 0, done
        assert "scriptlet" not in done.stderr, done

    @contextmanager
    def daemon(self, **variables: str) -> Iterator[None]:
        """Run the daemon during the block, with wrappers around all its children that record again what they get."""
        (self.root / TOLD).mkdir(parents=True, exist_ok=True)
        for old in (self.root / TOLD).iterdir():
            old.unlink()
        for name, answer in CHILDREN.items():
            path = self.root / PROGRAMS.lstrip("/") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(WRAPPER + answer)
            path.chmod(0o755)
        # Not the last run's status. The daemon is process 1 of its namespace: a signal before it has a handler is lost.
        self._status.unlink(missing_ok=True)
        words = roots.command(self.root, ["overlayd", "run", "--resync-s=1"], variables=variables)
        with (self.root / "root/log").open("ab") as log:
            # A session of its own, so that the signal reaches the sandbox's helpers too.
            child = subprocess.Popen([*self.host.enter, *words], stdout=log, stderr=log, start_new_session=True)
        try:
            eventually("the daemon is ready", lambda: self._ready(child), timeout_s=30)
            yield
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(20)

    def told(self, name: str) -> str:
        """What a child recorded."""
        path = self.root / TOLD / name
        return eventually(f"{name} was run", lambda: path.read_text() if path.exists() else "", timeout_s=20)

    def _ready(self, child: subprocess.Popen[bytes]) -> bool:
        assert child.poll() is None, (self.root / "root/log").read_text()
        return self._status.exists() and json.loads(self._status.read_text())["state"] == "ready"


@pytest.fixture(scope="module", params=["older", pytest.param("newer", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The package, installed by the release's rpm; the daemon does not run yet."""
    release = RELEASES[request.param]
    try:
        roots.cached(release)
    except roots.NoSuchRelease as error:
        pytest.skip(str(error))
    with roots.copied(release) as root, laboratory(tmp_path_factory.mktemp("root"), {"Type": "vxlan"}) as lab:
        found = Installed(root, lab, lab.host("a", start=False))
        namespaces.ip(found.host.namespace, "link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0")
        shutil.copy(built(), root / RPM.lstrip("/"))
        found.transaction("--install", RPM)
        with (root / "etc/sysconfig/overlayd").open("a") as settings:
            settings.write(f"OVERLAYD_ETCD_ENDPOINTS={ETCD}\nOVERLAYD_IFACE=eth0\n")
            settings.write(f"OVERLAYD_EXTENSION_COMMANDS={PROGRAMS}\n")
        yield found


def glibc(text: str) -> tuple[int, ...]:
    """The version in a C library's own description."""
    found = re.search(r"GNU C Library .* version (\d+)\.(\d+)", text)
    assert found is not None, text
    return tuple(map(int, found.groups()))


def test_the_release_has_another_c_library(installed: Installed, request: pytest.FixtureRequest) -> None:
    ours = glibc((ROOT / "build" / FROZEN / "_internal/libc.so.6").read_bytes().decode(errors="replace"))
    there = glibc(installed.say("sh", "-c", "/lib/x86_64-linux-gnu/libc.so.6"))
    assert there < ours if "older" in request.node.name else there > ours


def test_every_file_is_as_it_was_packed(installed: Installed) -> None:
    # Except for the settings, which the fixture wrote.
    done = installed.run("rpm", "--verify", "--nodeps", "overlayd")
    assert (done.stdout.split(), done.stderr) == (["S.5....T.", "c", "/etc/sysconfig/overlayd"], "")


def test_the_program_runs(installed: Installed) -> None:
    assert installed.say("overlayd", "--version") == f"overlayd {__version__}\n"
    said = installed.say("overlayd", "check")
    assert "eth0" in said
    assert str(NETWORK) in said
    assert str(NETWORK) in installed.say("overlayd", "config", "get")


def test_the_daemon_makes_its_device_and_its_rules_there(installed: Installed) -> None:
    with installed.daemon():
        eventually("the device", lambda: "vxlan" in installed.host.run("ip", "-details", "link", "show", "overlay.1"))
        eventually("the rules", lambda: "OVERLAYD-DOCKER" in installed.say("/usr/sbin/iptables-save"))
        assert_children_have_their_own_libraries(installed, path=None)
    with extension(installed):
        assert_a_child_has_its_own_libraries(installed, "extension", path=None)
    said = installed.say("overlayd", "cleanup")
    assert "overlay.1" in said
    assert "overlay" not in installed.host.run("ip", "link", "show")
    assert "OVERLAYD" not in installed.say("/usr/sbin/iptables-save")


def test_children_get_the_users_library_path(installed: Installed) -> None:
    path = "/opt/libraries:/opt/more"
    with installed.daemon(LD_LIBRARY_PATH=path):
        assert_children_have_their_own_libraries(installed, path=path)
    with extension(installed, LD_LIBRARY_PATH=path):
        assert_a_child_has_its_own_libraries(installed, "extension", path=path)


@contextmanager
def extension(installed: Installed, **variables: str) -> Iterator[None]:
    """The daemon with a program of the host; at the end vxlan again. A running daemon does not change to commands."""
    command = f"{PROGRAMS}/extension"
    installed.lab.configure({"Type": "extension", "PostStartupCommand": command, "ShutdownCommand": command})
    try:
        with installed.daemon(**variables):
            yield
            installed.lab.configure({"Type": "vxlan"})
            eventually("vxlan again", lambda: "overlay.1" in installed.host.run("ip", "link", "show"))
    finally:
        installed.lab.configure({"Type": "vxlan"})


def assert_children_have_their_own_libraries(installed: Installed, *, path: str | None) -> None:
    """Assert that all children got that library path and none of our variables, and have none of our files mapped."""
    for name in CHILDREN:
        if name != "extension":
            assert_a_child_has_its_own_libraries(installed, name, path=path)


def assert_a_child_has_its_own_libraries(installed: Installed, name: str, *, path: str | None) -> None:
    """Assert the same of one child."""
    wanted = [] if path is None else [f"LD_LIBRARY_PATH={path}"]
    told = installed.told(name)
    assert [line for line in told.splitlines() if line.startswith(("LD_", "_PYI_", "PYTHON"))] == wanted, name
    assert re.search(r"/libc[.-].*so", told), told
    assert INSTALLED not in told


@pytest.mark.parametrize("systemd", ["missing", "failing"])
def test_no_scriptlet_fails_a_transaction(installed: Installed, systemd: str) -> None:
    """Whatever the programs of systemd and firewalld answer, the package can be installed and erased."""
    stubs = [installed.root / "usr/bin" / name for name in ("systemctl", "systemd-tmpfiles", "firewall-cmd")]
    booted = installed.root / "run/systemd/system"
    for old in (installed.root / "usr/local/sbin").glob("*"):
        old.unlink()
    if systemd == "failing":
        booted.mkdir(parents=True)
        for path in stubs:
            path.write_text("#!/bin/sh\necho this fails >&2\nexit 1\n")
            path.chmod(0o755)
    try:
        installed.transaction("--reinstall", RPM)
        installed.transaction("--erase", "overlayd")
        settings = installed.root / "etc/sysconfig/overlayd"
        assert left_behind(installed.root) == {"etc/sysconfig/overlayd.rpmsave"}
        installed.transaction("--install", RPM)
        # As before, for the next test.
        settings.with_name("overlayd.rpmsave").rename(settings)
    finally:
        for path in stubs:
            path.unlink(missing_ok=True)
        shutil.rmtree(installed.root / "run/systemd", ignore_errors=True)


def left_behind(root: Path) -> set[str]:
    """The files in a root whose names contain ours."""
    return {str(path.relative_to(root)) for path in root.rglob("*overlayd*") if path.name != Path(RPM).name}
