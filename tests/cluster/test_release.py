"""One whole `invoke release`; and a host that uses its yum repository, intact and tampered with."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import signing
from images.ship import yum
from images.signing import SigningKey
from tests.testbed.agents import agents
from tests.testbed.cluster import docker_engine
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.images import image_of
from tests.testbed.cluster.invoked import interrupted, invoke, on_a_full_disk
from tests.testbed.cluster.registry import registry

pytestmark = [pytest.mark.lane("builds"), pytest.mark.slow]

# The repository's place on the host, as overlayd.repo names it.
SERVED = "/srv/overlayd/yum"
_INSTALL = f"""\
mkdir -p /etc/yum.repos.d
cp {SERVED}/overlayd.repo /etc/yum.repos.d/
yum --assumeyes install overlayd
rpm --query overlayd
rpm --query --all 'gpg-pubkey*'
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return signing.generate(tmp_path_factory.mktemp("gpg") / "home", "overlayd test <test@example.com>")


@pytest.fixture(scope="module")
def dist(base: str, key: SigningKey) -> Iterator[Path]:
    """A whole release. It is large, so it is not in a folder of pytest, which keeps those of three runs."""
    with tempfile.TemporaryDirectory(prefix="overlayd-dist-") as folder:
        to = Path(folder) / "dist"
        words = (f"--base={base}", f"--key={key.fingerprint}", f"--gnupg-home={key.home}", f"--to={to}")
        done = invoke("release", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        yield to


@pytest.fixture
def repository(dist: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the release's repository, to tamper with."""
    shutil.copytree(dist / "yum", tmp_path / "yum")
    yield tmp_path / "yum"
    shutil.rmtree(tmp_path / "yum")


def on_a_host(base: str, repository: Path) -> tuple[int, str]:
    """Install from a repository on a host with Docker and without our key; exit status and output of yum."""
    container = docker_engine.client().containers.create(
        image_of("docker", base),
        ["sh", "-euc", _INSTALL],
        network_mode="none",
        volumes=[f"{repository}:{SERVED}:ro"],
        labels={"org.overlayd.test": "release"},
    )
    try:
        container.start()
        status = int(container.wait(timeout=120)["StatusCode"])
        return status, container.logs().decode(errors="replace")
    finally:
        container.remove(force=True, v=True)


def test_a_release_is_whole_by_its_sums_its_signatures_and_its_manifest(dist: Path, key: SigningKey) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=dist, check=True, timeout=120)
    public = (dist / yum.KEY_FILE).read_bytes()
    archives = sorted((dist / "images").glob("*.tar"), key=lambda path: path.stat().st_size)
    assert all(path.with_name(f"{path.name}.asc").is_file() for path in archives)
    # The release itself verified each signature, so the test verifies only that of the smallest archive.
    for file in (archives[0], dist / "SHA256SUMS", dist / "yum/repodata/repomd.xml"):
        signing.verify(file, file.with_name(f"{file.name}.asc"), public)
    said = json.loads((dist / "manifest.json").read_text())
    files = {str(path.relative_to(dist)) for path in dist.rglob("*") if path.is_file() and path.suffix != ".asc"}
    assert set(said["files"]) == files - {"manifest.json", "SHA256SUMS"}
    assert all((dist / name).stat().st_size == file["size"] for name, file in said["files"].items())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said["source"]["commit"] == head.stdout.strip()
    assert said["signed"]["fingerprint"] == key.fingerprint
    assert len({image["name"] for image in said["images"]}) == 6


def test_every_image_and_the_rpm_has_a_valid_and_complete_bill_of_materials(dist: Path) -> None:
    bills = {path.name: path.read_text() for path in (dist / "sbom").iterdir()}
    assert len(bills) == 7
    for name, text in bills.items():
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None, name
    [rpm] = [json.loads(text) for name, text in bills.items() if name.endswith("x86_64.cdx.json")]
    parts = {part["bom-ref"]: part for part in rpm["components"]}
    assert {"python", "pypi:grpcio", "pypi:protobuf", "pypi:jeepney", "pypi:pyinstaller"} <= set(parts)
    assert not [name for name in parts if name.startswith("unknown:")]
    libraries = [file["name"] for part in parts.values() for file in part.get("components", ())]
    assert {"libc.so.6", "ld-linux-x86-64.so.2"} <= set(libraries)
    # Parts without a file of their own, as they are linked into other files.
    assert {"linked:boringssl", "linked:abseil", "linked:c-ares", "linked:zlib-in-grpcio"} <= set(parts)
    [host] = [json.loads(text) for name, text in bills.items() if name.startswith("overlayd-host-")]
    assert "overlayd" in {part["name"] for part in host["components"]}


def test_bills_of_materials_name_licences_as_spdx_does(base: str, dist: Path) -> None:
    for file in (dist / "sbom").iterdir():
        said = json.loads(file.read_text())
        packages = [part for part in [said["metadata"]["component"], *said["components"]] if part["type"] != "file"]
        assert [part["bom-ref"] for part in packages if not part.get("licenses")] == [], file.name
        # CentOS' packages may have Fedora's older licence names, which appear as names, not as SPDX IDs.
        named = [part["bom-ref"] for part in packages if "name" in part["licenses"][0].get("license", {})]
        assert named == [] or base.startswith("centos"), file.name


def test_what_is_pushed_afterwards_has_the_digest_that_the_manifest_says(base: str, dist: Path, tmp_path: Path) -> None:
    said = json.loads((dist / "manifest.json").read_text())
    [digest] = [image["digest"] for image in said["images"] if image["name"] == f"overlayd/probe:{base}"]
    with registry(tmp_path / "registry") as where:
        done = invoke("images.push", f"--registry={where}", "--image=probe", "--no-tls-verify", f"--base={base}")
        assert done.stdout.strip() == f"{where}/overlayd/probe@{digest}"


def test_a_released_archive_is_loaded_by_docker_itself_as_the_image_it_says(base: str, dist: Path) -> None:
    said = json.loads((dist / "manifest.json").read_text())
    [image] = [one for one in said["images"] if one["name"] == f"overlayd/etcd:{base}"]
    done = subprocess.run(
        ["docker", "load", "--input", dist / image["archive"]], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == f"Loaded image: {image['name']}"
    assert docker_engine.image_id(image["name"]) == image["id"]


def test_yum_installs_from_the_repository_and_takes_the_key_itself(base: str, dist: Path, key: SigningKey) -> None:
    status, said = on_a_host(base, dist / "yum")
    assert status == 0, said
    assert "Complete!" in said
    assert f"gpg-pubkey-{key.fingerprint[-8:].lower()}" in said
    assert key.fingerprint in said.replace(" ", "")


def _another_key(repository: Path, _key: SigningKey) -> None:
    with tempfile.TemporaryDirectory() as folder:
        other = signing.generate(Path(folder) / "home", "another <another@example.com>")
        (repository / yum.KEY_FILE).write_bytes(signing.export_public(other))


def _changed_rpm(repository: Path, _key: SigningKey) -> None:
    [rpm] = repository.glob("*.rpm")
    content = bytearray(rpm.read_bytes())
    content[-1000] ^= 1
    rpm.write_bytes(content)


def _changed_metadata(repository: Path, _key: SigningKey) -> None:
    with (repository / "repodata/repomd.xml").open("a") as file:
        file.write("<!-- changed -->\n")


def _unsigned_rpm(repository: Path, key: SigningKey) -> None:
    shutil.rmtree(repository)
    yum.make(sorted((ROOT / "build/rpm/repo").glob("*.rpm")), repository, epoch=0, key=None, baseurl=yum.BASEURL)
    signing.sign_detached(key, repository / "repodata/repomd.xml")
    (repository / yum.KEY_FILE).write_bytes(signing.export_public(key))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_changed_rpm, "checksum"),
        (_changed_metadata, "repomd.xml GPG signature verification error"),
        (_unsigned_rpm, "not signed"),
        (_another_key, "repomd.xml GPG signature verification error"),
    ],
)
def test_yum_refuses_what_was_tampered_with(
    base: str, repository: Path, key: SigningKey, spoil: Callable[[Path, SigningKey], None], said: str
) -> None:
    spoil(repository, key)
    status, output = on_a_host(base, repository)
    assert status != 0
    assert said in output
    assert "Complete!" not in output


def test_two_unsigned_releases_of_one_commit_are_the_same_bytes(base: str, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        done = invoke("release", "--unsigned", f"--base={base}", "--image=probe", f"--to={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert json.loads(found[0]["manifest.json"])["signed"] is None
    assert not [name for name in found[0] if name.endswith(".asc")]


def test_a_release_that_is_ended_leaves_the_one_before(base: str, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/manifest.json").write_text("the one before")
    words = ("release", "--unsigned", f"--base={base}", f"--to={tmp_path}/dist")
    status, said = interrupted(*words, when=(tmp_path / "dist.half").exists, by=signal.SIGTERM)
    assert status == 130
    assert "stopped" in said
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["dist", "dist/manifest.json"]
    assert (tmp_path / "dist/manifest.json").read_text() == "the one before"


def test_a_release_that_is_interrupted_while_it_signs_leaves_no_agent(
    base: str, key: SigningKey, tmp_path: Path
) -> None:
    words = ("release", f"--gnupg-home={key.home}", f"--base={base}", "--image=etcd", f"--to={tmp_path}/dist")
    signing_now = (tmp_path / "dist.half/SHA256SUMS").exists
    status, _said = interrupted(*words, when=signing_now, by=signal.SIGINT)
    assert status == 130
    assert not list(tmp_path.iterdir())
    assert not agents(key.home)


def test_a_full_disk_ends_a_release_with_what_is_missing_and_nothing_left(base: str, tmp_path: Path) -> None:
    words = ("release", "--unsigned", f"--base={base}", "--image=probe", f"--to={tmp_path}/dist")
    status, said, left = on_a_full_disk(tmp_path, 12, *words)
    assert status == 1
    assert "No space left on device" in said
    assert not left


def test_without_a_key_a_release_is_refused_before_anything_is_built(base: str) -> None:
    done = invoke("release", f"--base={base}", env={"OVERLAYD_SIGNING_KEY": ""})
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no key to sign the release with")
    assert "--unsigned" in done.stderr
    assert not done.stdout
