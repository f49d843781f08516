"""etcd's release: fetched once, kept, and taken only if it is the one that was meant."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from images.engine.errors import BuildError, Cancelled
from images.engine.oci import Layout
from images.engine.place import ROOT
from images.engine.process import Stop
from images.engine.step import Step
from images.etcd import release
from tests.testbed.needs import needs

LICENCE = ROOT / release.OWN_LICENCE

_ETCD, _ETCDCTL = shutil.which("etcd"), shutil.which("etcdctl")


class _Handler(SimpleHTTPRequestHandler):
    """A folder's files; of a file `cut` everything but the end, under its full length."""

    def log_message(self, *words: Any) -> None:  # noqa: ARG002
        return

    def do_GET(self) -> None:
        if self.path != "/cut":
            super().do_GET()
            return
        whole = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        self.wfile.write(whole[: len(whole) // 2])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL at which a server on the loopback has it."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def obtained(folder: Path, url: str = release.URL, sha256: str = release.SHA256, step: Step | None = None) -> Path:
    """The tarball, new in a folder, out of the cache beside it or from a URL; kept as the engine would keep it."""
    new, cache = folder / "new", folder / "cache" / release.TARBALL
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    cache.parent.mkdir(exist_ok=True)
    release.obtain(new / release.TARBALL, cache, url, sha256, step)
    shutil.copyfile(new / release.TARBALL, cache)
    return new / release.TARBALL


def tarball(path: Path, files: Mapping[str, bytes]) -> str:
    """Write a tarball; its SHA-256."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def small(path: Path) -> str:
    """A tarball laid out as etcd's, whose programs are a word each."""
    return tarball(path, {f"{release.TOP}/{name}": name.encode() for name in ("README.md", *release.PROGRAMS)})


@needs("etcd", "etcdctl")
def test_real_programs_come_out_of_the_tarball_as_they_went_in(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    files = {f"{release.TOP}/{Path(path).name}": Path(path).read_bytes() for path in (_ETCD, _ETCDCTL) if path}
    sha256 = tarball(folder / "etcd.tar.gz", files)
    release.unpack(obtained(tmp_path, f"{url}/etcd.tar.gz", sha256), tmp_path / "out", LICENCE)
    said = subprocess.run([tmp_path / "out/etcd", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("etcd Version: ")
    assert (tmp_path / "out/etcdctl").read_bytes() == files[f"{release.TOP}/etcdctl"]


def test_what_was_fetched_is_kept_and_not_asked_for_again(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    sha256 = small(folder / "etcd.tar.gz")
    first = obtained(tmp_path, f"{url}/etcd.tar.gz", sha256).read_bytes()
    (folder / "etcd.tar.gz").unlink()
    assert obtained(tmp_path, f"{url}/etcd.tar.gz", sha256).read_bytes() == first


def test_damaged_tarball_in_the_cache_is_fetched_again(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    sha256 = small(folder / "etcd.tar.gz")
    whole = obtained(tmp_path, f"{url}/etcd.tar.gz", sha256).read_bytes()
    (tmp_path / "cache" / release.TARBALL).write_bytes(whole[:100])
    assert obtained(tmp_path, f"{url}/etcd.tar.gz", sha256).read_bytes() == whole


def test_a_file_url_is_as_good(tmp_path: Path) -> None:
    sha256 = small(tmp_path / "etcd.tar.gz")
    assert obtained(tmp_path, (tmp_path / "etcd.tar.gz").as_uri(), sha256).exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("other", b"another release", "is another file: its SHA-256 is "),
        ("page", b"\n<!DOCTYPE html><html>log in</html>", "it is a web page"),
        ("cut", b"half of me comes", "8 of 16 bytes came"),
        ("missing", None, "cannot be fetched from .*404"),
    ],
)
def test_another_file_is_refused_and_not_kept(
    served: tuple[Path, str], tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    folder, url = served
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(BuildError, match=words) as caught:
        obtained(tmp_path, f"{url}/{name}", "0" * 64)
    assert f"build/cache/etcd/{release.TOP}.tar.gz" in str(caught.value)
    assert f"{url}/{name}" in str(caught.value)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/etcd.tar.gz", "file:///nowhere/etcd.tar.gz", "no-url", "ftp:x"])
def test_a_url_that_does_not_answer_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(BuildError, match=f"etcd's release cannot be fetched from {url}: .") as caught:
        obtained(tmp_path, url)
    assert caught.value.hint
    assert not list((tmp_path / "new").iterdir())


def test_a_build_told_to_stop_leaves_nothing_of_a_download(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    sha256 = small(folder / "etcd.tar.gz")
    stop = Stop()
    stop.set()
    with (tmp_path / "log").open("wb") as log:
        step = Step(
            target=release.target(),
            inputs={},
            root=tmp_path,
            build=tmp_path,
            layout=Layout(tmp_path / "oci"),
            scratch=tmp_path,
            log=log,
            stop=stop,
            owner="test",
            epoch=0,
        )
        with pytest.raises(Cancelled):
            obtained(tmp_path, f"{url}/etcd.tar.gz", sha256, step)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({f"{release.TOP}/etcdctl": b"x"}, f"holds no {release.TOP}/etcd$"),
        ({"etcd": b"x", "etcdctl": b"x"}, f"holds no {release.TOP}/etcd and no {release.TOP}/etcdctl"),
        ({}, "holds no "),
    ],
)
def test_a_tarball_without_the_programs_is_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    tarball(tmp_path / "t.tar.gz", files)
    with pytest.raises(BuildError) as caught:
        release.unpack(tmp_path / "t.tar.gz", tmp_path / "out", LICENCE)
    assert re.search(words, caught.value.message)


def test_names_in_a_tarball_lead_nowhere_else(tmp_path: Path) -> None:
    evil = {
        f"{release.TOP}/etcd": b"good",
        f"{release.TOP}/etcdctl": b"good",
        "../escaped": b"bad",
        f"{tmp_path}/absolute": b"bad",
        f"{release.TOP}/../../etcd": b"bad",
    }
    (tmp_path / "below").mkdir()
    tarball(tmp_path / "t.tar.gz", evil)
    release.unpack(tmp_path / "t.tar.gz", tmp_path / "below/out", LICENCE)
    assert {path.name: path.read_bytes() for path in (tmp_path / "below").rglob("*") if path.is_file()} == {
        "etcd": b"good",
        "etcdctl": b"good",
        "LICENSE": LICENCE.read_bytes(),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "t.tar.gz"]


def test_the_releases_own_licence_and_notice_are_taken_where_it_has_them(tmp_path: Path) -> None:
    names = (*release.PROGRAMS, *release.LICENCES)
    tarball(tmp_path / "t.tar.gz", {f"{release.TOP}/{name}": name.encode() for name in names})
    release.unpack(tmp_path / "t.tar.gz", tmp_path / "out", LICENCE)
    texts = {path.name: path.read_text() for path in (tmp_path / "out/licences").iterdir()}
    assert texts == {"LICENSE": "LICENSE", "NOTICE": "NOTICE"}
    assert f"-t /usr/share/licenses/etcd {release.MOUNT}/licences/*\n" in release.INSTALL_SCRIPT


def test_a_link_is_no_program(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        for name in release.PROGRAMS:
            member = tarfile.TarInfo(f"{release.TOP}/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(BuildError, match="holds no "):
        release.unpack(tmp_path / "t.tar.gz", tmp_path / "out", LICENCE)


@pytest.mark.parametrize("cut", [0, 50])
def test_a_cut_tarball_is_an_error_that_names_it(tmp_path: Path, cut: int) -> None:
    small(tmp_path / "t.tar.gz")
    whole = (tmp_path / "t.tar.gz").read_bytes()
    (tmp_path / "t.tar.gz").write_bytes(whole[: len(whole) - cut] if cut else b"<html>")
    with pytest.raises(BuildError, match=r"t\.tar\.gz (cannot be unpacked|holds no)"):
        release.unpack(tmp_path / "t.tar.gz", tmp_path / "out", LICENCE)
