"""Images go to a registry and to a file and back, by our tasks with a real skopeo, docker-registry and dockerd."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.certificates import Authority
from tests.testbed.cluster import docker_engine
from tests.testbed.cluster.create import ROOT
from tests.testbed.cluster.invoked import interrupted, invoke, on_a_full_disk
from tests.testbed.cluster.registry import HOST, PASSWORD, USER, registry

pytestmark = pytest.mark.lane("builds")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry without TLS."""
    with registry(tmp_path_factory.mktemp("registry") / "plain") as where:
        yield where


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    """A registry with a certificate of our own CA, which demands a login."""
    tls = authority.issue("registry", f"IP:{HOST}")
    with registry(tmp_path_factory.mktemp("registry") / "guarded", tls=tls, login=True) as where:
        yield where


def test_what_was_pushed_is_pulled_by_digest_and_is_the_image_that_was_built(base: str, plain: str) -> None:
    pushed = invoke("images.push", f"--registry={plain}/team", "--image=probe", "--no-tls-verify", f"--base={base}")
    assert pushed.returncode == 0, pushed.stderr
    [name] = pushed.stdout.split()
    assert re.fullmatch(rf"{plain}/team/overlayd/probe@sha256:[0-9a-f]{{64}}", name)
    built = docker_engine.image_id(f"overlayd/probe:{base}")
    client = docker_engine.client()
    for pulled in (name, f"{plain}/team/overlayd/probe:{base}"):
        client.images.pull(pulled)
        assert client.images.get(pulled).id == built
        client.images.remove(pulled)


def test_pushed_again_the_digest_is_the_same_and_no_blob_is_sent(base: str, plain: str) -> None:
    first, second = (
        invoke("images.push", f"--registry={plain}", "--image=probe", "--no-tls-verify", f"--base={base}")
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    digest = first.stdout.strip().partition("@")[2]
    manifest = f"http://{plain}/v2/overlayd/probe/manifests/{digest}"
    request = urllib.request.Request(manifest, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.load(answer)
    assert found["annotations"]["org.opencontainers.image.title"] == "overlayd/probe"
    assert found["annotations"].keys() >= {
        f"org.opencontainers.image.{key}" for key in ("version", "created", "source")
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--registry=127.0.0.1:1"], "no registry answers at 127.0.0.1:1"),
        (["--registry=http://127.0.0.1:1"], "names no registry"),
        (["--registry=127.0.0.1:1", "--image=nonsense"], "there is no image 'nonsense'"),
        (["--registry=127.0.0.1:1", "--base=nonsense"], "there is no base 'nonsense'"),
        (["--registry=127.0.0.1:1", "--base=centos-stream10"], "is not built"),
    ],
)
def test_a_failed_push_is_explained_in_one_or_two_lines(base: str, words: list[str], said: str) -> None:
    chosen = () if any(word.startswith("--base") for word in words) else (f"--base={base}",)
    done = invoke("images.push", *chosen, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_registry_without_tls_is_pushed_to_only_when_that_is_said(base: str, plain: str) -> None:
    done = invoke("images.push", f"--registry={plain}", "--image=probe", f"--base={base}")
    assert done.returncode == 1
    assert f"{plain} speaks plain HTTP" in done.stderr
    assert "--no-tls-verify" in done.stderr


def test_a_registry_with_our_ca_and_a_login_takes_what_both_allow(
    base: str, guarded: str, authority: Authority, tmp_path: Path
) -> None:
    words = ("images.push", f"--registry={guarded}", "--image=probe", f"--base={base}")
    logins = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    trusted = {**logins, "SSL_CERT_FILE": str(authority.certificate)}
    stranger = invoke(*words, env=logins)
    assert "a certificate that no authority known here has signed" in stranger.stderr
    nobody = invoke(*words, env=trusted)
    assert f"skopeo login {guarded}" in nobody.stderr
    login = ["skopeo", "login", f"--username={USER}", "--password-stdin", guarded]
    subprocess.run(
        login, env={**os.environ, **trusted}, input=PASSWORD, text=True, check=True, capture_output=True, timeout=60
    )
    done = invoke(*words, env=trusted)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{guarded}/overlayd/probe@sha256:")


def test_images_saved_and_loaded_have_the_same_ids(base: str, tmp_path: Path) -> None:
    name, file = f"overlayd/probe:{base}", tmp_path / "images.tar"
    client = docker_engine.client()
    image = client.images.get(name)
    saved = invoke("images.save", f"--to={file}", "--image=probe", f"--base={base}")
    assert saved.returncode == 0, saved.stderr
    subprocess.run(["sha256sum", "--check", "--quiet", "images.tar.sha256"], cwd=tmp_path, check=True)
    # A second name keeps the image in Docker while its own name is removed.
    image.tag("overlayd/test-kept", base)
    try:
        client.images.remove(name)
        loaded = invoke("images.load", file)
        assert loaded.returncode == 0, loaded.stderr
        assert loaded.stdout == f"{name}  {image.id}\n"
        assert "a sum is no signature" in loaded.stderr
        assert docker_engine.image_id(name) == image.id
    finally:
        client.images.get(f"overlayd/test-kept:{base}").tag("overlayd/probe", base)
        client.images.remove(f"overlayd/test-kept:{base}")


def test_skopeo_reads_a_saved_file_as_an_oci_layout_with_the_digest_that_is_pushed(base: str, tmp_path: Path) -> None:
    file = tmp_path / "images.tar"
    assert invoke("images.save", f"--to={file}", "--image=probe", f"--base={base}").returncode == 0
    command = ["skopeo", "inspect", "--format={{.Digest}}", f"oci-archive:{file}:overlayd/probe:{base}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    packed = json.loads((ROOT / "build/packed/index.json").read_text())
    assert said in {entry["digest"] for entry in packed["manifests"]}


def test_a_full_disk_is_reported_and_nothing_is_left_on_it(base: str, tmp_path: Path) -> None:
    words = ("images.save", f"--to={tmp_path}/images.tar", "--image=probe", f"--base={base}")
    status, said, left = on_a_full_disk(tmp_path, 2, *words)
    assert status == 1
    assert "images.tar was not written: No space left on device" in said
    assert re.search(r"it needs \d+ MiB", said)
    assert not left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_save_that_is_interrupted_leaves_nothing(base: str, tmp_path: Path, number: signal.Signals) -> None:
    words = ("images.save", f"--to={tmp_path}/images.tar", f"--base={base}")
    status, said = interrupted(*words, when=lambda: list(tmp_path.iterdir()), by=number)
    assert status == 130
    assert "stopped; unfinished results are removed" in said
    assert not list(tmp_path.iterdir())
