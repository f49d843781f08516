"""How docker starts, with a real dockerd, the generator's drop-in, and a unit and files that the tests write.

There is no systemd: the tests do what it does at `systemctl restart docker`, and a file has what it would show.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from overlayd.docker import generator
from overlayd.docker import options as docker_options
from overlayd.lib import envfile, unit_files
from tests.testbed.netns import namespaces
from tests.testbed.netns.lab import Host, Lab, laboratory
from tests.testbed.polling import eventually

SYSTEMCTL = """\
case "$1 $2" in
"show docker.service") cat {folder}/unit ;;
"show "*) printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\n' ;;
restart*) rm -f {folder}/restarted; touch {folder}/restart
    while [ ! -e {folder}/restarted ]; do sleep 0.05; done ;;
esac
"""
UNIT = """\
[Service]
EnvironmentFile=-/etc/default/docker
ExecStart={dockerd} --data-root={folder}/data --exec-root={folder}/exec --pidfile={folder}/pid \\
    --host=unix://{folder}/socket --storage-driver=vfs $DOCKER_OPTS
"""


class Docker:
    """docker.service on one host, which has its own /etc."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.etc = folder / "etc"
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.log.touch()
        shutil.copytree("/etc", self.etc, symlinks=True, ignore=shutil.ignore_patterns("docker", "docker.service.d"))
        host.enter += ["sh", "-c", 'mount --bind "$0" /etc && exec "$@"', str(self.etc)]
        self.write("systemd/system/docker.service", UNIT.format(dockerd=shutil.which("dockerd"), folder=folder))
        self.write("systemd/system/multi-user.target.wants/overlayd.service", "")
        self.write("default/docker", "")
        host.install("systemctl", SYSTEMCTL.format(folder=folder))
        host.install("journalctl", f"cat {self.log}")
        host.install("docker", "true")
        self.say("inactive", 0)

    def write(self, name: str, text: str) -> None:
        """Write a file below /etc."""
        path = self.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def say(self, state: str, pid: int) -> None:
        """Write what systemd would show of docker.service."""
        drop_ins = "/a/50-overlayd.conf /b/zz-overlayd.conf"
        temporary = self.folder / "unit.new"
        temporary.write_text(
            f"LoadState=loaded\nActiveState={state}\nSubState=\nUnitFileState=enabled\nJob=0\nMainPID={pid}\n"
            f"DropInPaths={drop_ins}\nInactiveEnterTimestampMonotonic=5\n"
        )
        temporary.replace(self.folder / "unit")

    def start(self, *, by_drop_in: bool = True) -> bool:
        """Do what systemd does at `systemctl restart docker`; whether dockerd came up."""
        self.stop()
        unit = (self.etc / "systemd/system/docker.service").read_text()
        if by_drop_in:
            drop_in = generator.drop_in(self.folder)
            assert drop_in is not None
            for _section, key, value in unit_files.assignments(drop_in):
                if key == "ExecStartPre":
                    self._run_before(value)
            unit += drop_in
        # systemd.exec(5): environment files are read just before the process starts, after ExecStartPre= has ended.
        variables = envfile.parse((self.etc / "default/docker").read_text())
        with contextlib.suppress(FileNotFoundError):
            variables |= envfile.parse((self.host.run_dir / docker_options.DOCKER_ENV).read_text())
        words: list[str] = []
        for word in shlex.split(unit_files.exec_start([unit])[0]):
            words += shlex.split(variables.get(word[1:], "")) if word.startswith("$") else [word]
        # `ip netns exec` would hide the cgroups that dockerd needs.
        enter = ["nsenter", f"--net=/run/netns/{self.host.namespace}", "unshare", "--mount"]
        argv = [*enter, "sh", "-c", 'mount --bind "$0" /etc && exec "$@"', str(self.etc), *words]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        process = self._process
        eventually("dockerd is up, or ended", lambda: process.poll() is not None or self._is_up(), timeout_s=30)
        if process.poll() is not None:
            self.say("failed", 0)
            return False
        self.say("active", process.pid)
        return True

    def stop(self) -> None:
        """End dockerd, as an administrator does."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        self.say("inactive", 0)

    def serve(self, over: threading.Event) -> None:
        """Restart docker whenever the stand-in for systemctl is asked to."""
        while not over.wait(0.05):
            if (self.folder / "restart").exists():
                (self.folder / "restart").unlink()
                self.start()
                (self.folder / "restarted").touch()

    def problems(self) -> str:
        """The daemon's problems with docker, from its status."""
        return "; ".join(self.host.status().get("docker_problems", []))

    def argv(self) -> str:
        """The command line of the running dockerd."""
        assert self._process is not None
        return (Path("/proc") / str(self._process.pid) / "cmdline").read_text().replace("\0", " ")

    def address(self) -> str:
        """The addresses of docker0."""
        found = json.loads(self.host.run("ip", "-json", "-4", "address", "show", "dev", "docker0"))
        return "{local}/{prefixlen}".format(**found[0]["addr_info"][0])

    def _is_up(self) -> bool:
        return "API listen on" in self.log.read_text()

    def _run_before(self, value: str) -> None:
        words = []
        for word in shlex.split(value.removeprefix("-")):
            here = word.replace("/run/overlayd", str(self.host.run_dir))
            words += [sys.executable, "-m", "overlayd"] if word == "/usr/bin/overlayd" else [here]
        done = subprocess.run(
            [*self.host.enter, *words], env=self.host.environment(), capture_output=True, text=True, check=False
        )
        assert value.startswith("-") or done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with an etcd and no host yet."""
    with laboratory(tmp_path_factory.mktemp("docker-start"), {"Type": "host-gw"}) as lab:
        yield lab


@pytest.fixture(scope="module")
def service(lab: Lab) -> Iterator[Docker]:
    """One host with docker.service, for all tests of this file."""
    assert shutil.which("dockerd"), "no dockerd here: run `make system`"
    host = lab.host("a", start=False, settings={"resync-s": 0.5, "docker-restart": "never"})
    found = Docker(host, lab.folder / "docker")
    namespaces.ip(host.namespace, "link set lo up", "link add br0 type bridge", "address add 192.0.2.1/24 dev br0")
    host.start()
    over = threading.Event()
    thread = threading.Thread(target=found.serve, args=(over,))
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.stop()


@pytest.fixture(autouse=True)
def as_it_was(service: Docker) -> None:
    """Before each test: nobody has configured docker, and it runs well."""
    service.write("default/docker", "")
    (service.etc / "docker/daemon.json").unlink(missing_ok=True)
    if not service.host.runs():
        service.host.start()
    assert service.start()
    eventually("docker is well", lambda: service.problems() == "")


def doctor(host: Host) -> dict[str, dict[str, Any]]:
    """doctor's findings by name."""
    done = host.call("doctor", "--json", "--no-arp")
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_changed_daemon_json_counts_from_the_very_next_start(service: Docker) -> None:
    host = service.host
    before = (host.run_dir / docker_options.DOCKER_ENV).read_text()
    # The daemon does not run meanwhile.
    host.stop()
    service.write("docker/daemon.json", f'{{"mtu": {host.mtu_bytes}, "fixed-cidr": null}}')
    assert service.start(), service.log.read_text()[-500:]
    assert "--mtu=" in before
    assert "--mtu=" not in service.argv()
    assert IPv4Interface(service.address()).network == host.subnet
    # While the file is half written, docker.env stays as it is, and dockerd reports what is wrong.
    service.write("docker/daemon.json", '{"mtu": ')
    assert not service.start()
    assert "--bip=" in (host.run_dir / docker_options.DOCKER_ENV).read_text()


def test_a_bridge_set_in_an_environment_file_leaves_our_bip_out_and_is_reported(service: Docker) -> None:
    service.write("default/docker", "DOCKER_OPTS=--bridge=br0\n")
    assert service.start(), service.log.read_text()[-500:]
    eventually("it is said", lambda: "/etc/default/docker sets bridge to 'br0'" in service.problems())
    status = service.host.call("status")
    assert (status.returncode, "/etc/default/docker" in status.stdout) == (1, True)
    assert "/etc/default/docker sets bridge" in doctor(service.host)["daemon-json"]["found"]


@pytest.mark.parametrize(
    ("options", "told", "named", "reason"),
    [
        ("", {"default-gateway": "172.17.0.254"}, "daemon.json sets default-gateway to 172.17.0.254", "master pool"),
        ("--mtu=1400", {"mtu": 1400}, "/etc/default/docker sets --mtu", "both as a flag and in the configuration file"),
        pytest.param(
            *("--icc=false", {"iptables": False}, "", "--iptables=false with --icc=false"), marks=pytest.mark.slow
        ),
        pytest.param("--no-such-option", {}, "", "unknown flag: --no-such-option", marks=pytest.mark.slow),
    ],
    ids=["default-gateway", "twice", "not-ours", "unknown"],
)
def test_a_docker_that_fails_is_reported_with_its_own_reason(
    service: Docker, options: str, told: dict[str, object], named: str, reason: str
) -> None:
    service.write("default/docker", f"DOCKER_OPTS={options}\n")
    service.write("docker/daemon.json", json.dumps(told))
    assert not service.start()
    eventually("it is said", lambda: "docker.service failed" in service.problems())
    assert reason in service.problems()
    assert named in service.problems()
    status = service.host.call("status")
    assert (status.returncode, reason in status.stdout) == (1, True), status.stdout
    finding = doctor(service.host)["docker-service"]
    assert (finding["state"], reason in finding["found"]) == ("problem", True), finding


def test_a_docker_that_was_stopped_is_reported_and_the_remedy_mends_it(service: Docker) -> None:
    service.stop()
    eventually("it is said", lambda: "systemctl start docker" in service.problems())
    assert service.host.call("status").returncode == 1
    assert doctor(service.host)["docker-service"]["remedy"] == "systemctl start docker"
    # docker0 still has the leased address, though docker does not run.
    done = service.host.call("docker", "settle")
    assert (done.returncode, "systemctl start docker" in done.stderr) == (1, True), (done.stdout, done.stderr)
    assert service.start()
    eventually("all is well", lambda: service.problems() == "")


def test_a_docker_that_was_started_without_its_options_is_reported_and_settled(service: Docker) -> None:
    assert service.start(by_drop_in=False)
    # dockerd keeps docker0 as it is, so only its options show the difference.
    eventually("it is said", lambda: "dockerd runs without --bip=" in service.problems())
    finding = doctor(service.host)["docker-options"]
    assert (finding["state"], finding["remedy"]) == ("problem", "overlayd docker settle")
    done = service.host.call("docker", "settle")
    assert done.returncode == 0, done.stderr
    assert "--bip=" in service.argv()
    eventually("all is well", lambda: service.problems() == "")
    assert "nothing to do" in service.host.call("docker", "settle").stdout


@pytest.mark.slow
def test_an_option_of_an_earlier_start_that_is_no_longer_set_is_reported(service: Docker) -> None:
    service.write("default/docker", "DOCKER_OPTS=--iptables=false\n")
    assert service.start()
    service.write("default/docker", "")
    eventually("it is said", lambda: "dockerd runs with --iptables=false" in service.problems())


def test_with_live_restore_the_printed_commands_bring_docker_onto_the_lease(service: Docker) -> None:
    host, running = service.host, service.folder / "running"
    service.write("docker/daemon.json", '{"live-restore": true}')
    assert service.start()
    # Containers cannot run here; the test checks which are listed, and that they are stopped and started.
    running.write_text("4c01db0b339c\n")
    host.install(
        "docker",
        f'case $1 in ps) cat {running} ;; stop) : >{running} ;; start) echo "$2" >{running} ;; esac',
    )
    program = f"{sys.executable} -m overlayd"
    try:
        host.run("ip", "address", "flush", "dev", "docker0")
        host.run("ip", "address", "add", "172.17.0.1/16", "dev", "docker0")
        eventually("it is said", lambda: "docker stop $ids" in service.problems())
        before = service.argv()
        done = host.call("docker", "settle")
        assert (done.returncode, "live-restore" in done.stderr) == (1, True), done.stderr
        assert service.argv() == before
        remedy = doctor(host)["docker-bridge"]["remedy"]
        assert remedy in done.stderr
        assert remedy in service.problems()
        flags = shlex.join(host.overlayd("docker", "settle")[host.overlayd("docker", "settle").index("settle") + 1 :])
        pasted = remedy.replace("overlayd docker settle", f"{program} docker settle {flags}")
        subprocess.run([*host.enter, "sh", "-c", pasted], env=host.environment(), check=True)
        assert IPv4Interface(service.address()).network == host.subnet
        assert running.read_text() == "4c01db0b339c\n"
    finally:
        host.install("docker", "true")
