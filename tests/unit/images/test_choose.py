"""Which base is built, by what answers: real servers on this machine, and ports where nobody listens."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.bases import catalogue, choose
from images.bases.base import Base
from images.engine.errors import BaseUnreachable, BuildError
from tests.testbed.answering import HttpReply
from tests.testbed.packages import served
from tests.testbed.ports import free_port

PAGE = b"<html><title>Sign in</title></html>"
# What is answered to a path; 404 to others.
ANSWERS = {
    "/there": HttpReply(200),
    "/portal/repodata/repomd.xml": HttpReply(200, PAGE),
    "/portal/InRelease": HttpReply(200, PAGE),
    "/moved/repodata/repomd.xml": HttpReply(302, headers={"Location": "/portal"}),
    "/portal": HttpReply(200, PAGE),
    "/real/repodata/repomd.xml": HttpReply(200, b'<?xml version="1.0"?>\n<repomd xmlns="x">'),
    "/real/InRelease": HttpReply(200, b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("empty"), ANSWERS.get) as url:
        yield url


@pytest.fixture
def nobody() -> str:
    """A host that refuses: a port that was free a moment ago."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def base(name: str, *questions: str, broken: str = "") -> Base:
    def asked(_: Base) -> tuple[str, ...]:
        if broken:
            raise BuildError(broken)
        return questions

    return dataclasses.replace(catalogue.get("debian12-rpm"), name=name, questions=asked)


def test_the_first_that_answers_is_taken_and_the_others_are_explained(tmp_path: Path, server: str, nobody: str) -> None:
    bases = [base("a", f"http://{nobody}/x"), base("b", f"{server}/missing"), base("c", f"{server}/there")]
    choice = choose.choose(bases, tmp_path, wanted=None)
    assert choice.base.name == "c"
    assert f"a: {nobody} does not answer" in choice.why
    assert "b: " in choice.why
    assert "answers 404" in choice.why


def test_a_base_needs_all_its_repositories(tmp_path: Path, server: str) -> None:
    bases = [base("a", f"{server}/there", f"{server}/missing"), base("b", f"{server}/there")]
    assert choose.choose(bases, tmp_path, wanted=None).base.name == "b"


def test_a_wanted_base_that_does_not_answer_names_the_host_and_what_would_work(
    tmp_path: Path, server: str, nobody: str
) -> None:
    bases = [base("a", f"http://{nobody}/x"), base("b", f"{server}/there")]
    with pytest.raises(BaseUnreachable, match=f"base a: {nobody} does not answer") as caught:
        choose.choose(bases, tmp_path, wanted="a")
    assert caught.value.hint == "these bases would work here: b"


@pytest.mark.parametrize("path", ["portal/repodata/repomd.xml", "portal/InRelease", "moved/repodata/repomd.xml"])
def test_a_web_page_in_place_of_metadata_is_no_answer(tmp_path: Path, server: str, path: str) -> None:
    bases = [base("a", f"{server}/{path}"), base("b", f"{server}/real/{path.partition('/')[2]}")]
    with pytest.raises(BaseUnreachable, match=r"base a: .* with a web page \('Sign in'\)") as caught:
        choose.choose(bases, tmp_path, wanted="a")
    assert caught.value.hint == "these bases would work here: b"


def test_a_base_that_lacks_an_image_is_taken_only_by_its_name(tmp_path: Path, server: str) -> None:
    part = dataclasses.replace(base("a", f"{server}/there"), lacks={"builder": "too old"})
    bases = [part, base("b", f"{server}/there")]
    assert choose.choose(bases, tmp_path, wanted=None).base.name == "b"
    assert choose.choose(bases, tmp_path, wanted="a").base.name == "a"


def test_a_wanted_base_that_is_built_is_not_asked(tmp_path: Path, nobody: str) -> None:
    assert choose.choose([base("a", f"http://{nobody}/x")], tmp_path, wanted="a", fetched=["a"]).base.name == "a"


def test_one_whose_packages_are_here_can_be_built_without_a_network(tmp_path: Path, nobody: str) -> None:
    bases = [base("a", f"http://{nobody}/x"), base("b", f"http://{nobody}/x")]
    answers = choose.answers_of(bases, ["b"])
    assert (answers["a"].ok, answers["b"].ok) == (False, True)
    choice = choose.by_default(bases, tmp_path, fetched=["b"], answers=answers)
    assert (choice.base.name, choice.why[:21]) == ("b", "its packages are here")
    with pytest.raises(BaseUnreachable) as caught:
        choose.choose(bases, tmp_path, wanted="a", fetched=["b"])
    assert caught.value.hint == "these bases would work here: b"


def test_a_name_that_is_not_in_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no base 'z'"):
        choose.choose([base("a")], tmp_path, wanted="z")


def test_silence_ends_after_the_timeout(silent: str, server: str) -> None:
    begin = time.monotonic()
    bases = [base(name, f"http://{silent}/{name}") for name in "abcd"] + [base("e", f"{server}/there")]
    answers = choose.ask(bases, timeout_s=0.5)
    assert time.monotonic() - begin < 2
    assert [answer.ok for answer in answers.values()] == [False, False, False, False, True]
    assert answers["a"].why == f"{silent} does not answer (timed out)"


def test_a_base_that_this_machine_cannot_make_says_why(tmp_path: Path) -> None:
    with pytest.raises(BaseUnreachable, match="a: no mmdebstrap here"):
        choose.choose([base("a", broken="no mmdebstrap here")], tmp_path, wanted=None)


def test_a_choice_is_remembered_for_as_long_as_it_is_built(tmp_path: Path, server: str, nobody: str) -> None:
    bases = [base("a", f"{server}/there"), base("b", f"http://{nobody}/x")]
    choose.remember(tmp_path, bases[1])
    assert choose.choose(bases, tmp_path, wanted=None, fetched=["b"]).base.name == "b"
    assert choose.choose(bases, tmp_path, wanted=None, fetched=["b"], again=True).base.name == "a"
    assert choose.choose(bases, tmp_path, wanted=None, fetched=[]).base.name == "a"


@pytest.mark.parametrize(
    ("name", "unified", "expected"),
    [
        ("centos-7", True, "cgroup v2, and the systemd of CentOS 7 boots on v1"),
        ("centos-7", False, None),
        ("centos-stream9", True, None),
        ("centos-stream10", False, "cgroup v1, and the systemd of CentOS Stream 10 boots on v2"),
        ("debian-testing-rpm", False, "its images are for virtual machines, and for other machines"),
        ("debian-testing-rpm", True, None),
    ],
)
def test_a_base_that_does_not_boot_on_this_machine_says_why(
    tmp_path: Path, name: str, unified: bool, expected: str | None
) -> None:
    if unified:
        (tmp_path / "cgroup.controllers").touch()
    said = choose.unbootable(catalogue.get(name), tmp_path)
    assert (said is None) if expected is None else (said is not None and expected in said)


def test_on_a_hybrid_machine_a_base_that_boots_on_v2_only_gets_that_half(tmp_path: Path) -> None:
    hybrid = tmp_path / "unified"
    hybrid.mkdir()
    (hybrid / "cgroup.controllers").touch()
    found = {name: choose.cgroup_folder(catalogue.get(name), tmp_path) for name in catalogue.NAMES}
    assert {found.pop(name) for name in ("centos-stream10", "debian13-rpm", "debian-testing-rpm")} == {hybrid}
    assert set(found.values()) == {tmp_path}
    assert choose.unbootable(catalogue.get("debian13-rpm"), tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"base": 3}', '{"other": "a"}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / choose.REMEMBERED).write_text(content)
    assert choose.recall(tmp_path) is None
