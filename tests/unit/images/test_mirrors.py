"""Where packages come from: what is said, where it is said, and what is no place at all."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from images.bases import catalogue, mirrors
from images.bases.base import Base
from images.bases.catalogue.centos_7 import BASE as CENTOS_7
from images.bases.catalogue.centos_stream9 import BASE as STREAM_9
from images.bases.catalogue.centos_stream10 import BASE as STREAM_10
from images.bases.catalogue.debian12_rpm import BASE as DEBIAN
from images.engine.errors import BuildError
from images.etcd import recipe as etcd
from images.etcd import release

ALL = (STREAM_9, STREAM_10, DEBIAN, CENTOS_7)
COMPOSE = "https://compose.example.com/CentOS-Stream-9-1/compose/$repo/$basearch/os"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mirrors.toml"


def apply(
    *words: str, file: Path, wanted: str | None = None, environment: dict[str, str] | None = None
) -> dict[str, Base]:
    found = mirrors.applied(ALL, words, wanted=wanted, environment=environment or {}, file=file)
    return {base.name: base for base in found}


def url(base: Base, name: str) -> str:
    return next(repository.url for repository in base.repositories if repository.name == name)


def test_without_a_word_the_catalogue_holds(file: Path) -> None:
    assert list(apply(file=file).values()) == list(ALL)


def test_a_mirror_of_a_site_moves_all_its_repositories_and_no_other(file: Path) -> None:
    base = apply("centos=file:///srv/stream/", file=file)["centos-stream9"]
    assert url(base, "BaseOS") == "file:///srv/stream/9-stream/BaseOS/x86_64/os/"
    assert url(base, "CRB") == "file:///srv/stream/9-stream/CRB/x86_64/os/"
    assert url(base, "docker-ce") == url(STREAM_9, "docker-ce")


def test_a_bare_url_is_for_the_main_site_of_the_base_that_was_asked_for(file: Path) -> None:
    found = apply("http://mirror.example.com/c", file=file, wanted="centos-7")
    assert url(found["centos-7"], "updates") == "http://mirror.example.com/c/7.9.2009/updates/x86_64/"
    assert found["centos-stream9"] == STREAM_9
    assert apply("http://mirror.example.com/d", file=file, wanted="debian12-rpm")["debian12-rpm"].mirrors == {
        "debian": "http://mirror.example.com/d"
    }


def test_a_pinned_compose(file: Path) -> None:
    base = apply(f"centos={COMPOSE}", file=file)["centos-stream9"]
    assert url(base, "AppStream") == "https://compose.example.com/CentOS-Stream-9-1/compose/AppStream/x86_64/os"


def test_a_single_repository_wins_over_its_site(file: Path) -> None:
    words = ("CRB=file:///srv/crb/$releasever", "centos=file:///srv/stream")
    base = apply(*words, file=file)["centos-stream9"]
    assert url(base, "CRB") == "file:///srv/crb/9"
    assert url(base, "BaseOS").startswith("file:///srv/stream/")


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text('[centos-stream9]\ncentos = "file:///file"\n')
    environment = {mirrors.variable("centos"): "file:///environment"}
    of_file = apply(file=file)
    of_environment = apply(file=file, environment=environment)
    of_words = apply("centos=file:///words", file=file, environment=environment)
    assert [url(found["centos-stream9"], "CRB")[:9] for found in (of_file, of_environment, of_words)] == [
        "file:///f",
        "file:///e",
        "file:///w",
    ]
    # The file says it for one base, the variable for all.
    assert of_file["centos-7"] == CENTOS_7
    assert url(of_environment["centos-7"], "os").startswith("file:///environment/")


def test_the_place_of_a_key_may_be_said_alone_and_stays_when_the_url_is_said_elsewhere(file: Path) -> None:
    file.write_text('[centos-stream9]\ndocker = {key = "file:///srv/docker.asc"}\n')
    base = apply("docker=file:///srv/docker", file=file)["centos-stream9"]
    [docker] = [one for one in base.repositories if one.site == "docker"]
    assert (docker.url, docker.key_url) == ("file:///srv/docker/9/x86_64/stable/", "file:///srv/docker.asc")
    assert docker.key_fingerprint == next(one.key_fingerprint for one in STREAM_9.repositories if one.site == "docker")


@pytest.mark.parametrize(
    ("words", "wanted", "reason"),
    [
        (["file:///srv"], None, "--mirror file:///srv: it is not said for which site"),
        (["nginx=file:///srv"], None, "no base has a site or repository 'nginx'"),
        (["docker=file:///srv"], "debian12-rpm", "debian12-rpm has no site or repository 'docker'"),
        (["centos=srv/centos"], None, "'srv/centos' is no URL"),
        (["centos="], None, "'' is no URL"),
        (["centos=ftp://mirror.example.com/"], None, "is no URL"),
        (["centos=http:///centos"], None, "names no host"),
        (["centos=file://srv/centos"], None, "names no folder of this machine"),
        (["centos=http://a b/"], None, "has a blank in it"),
        (["centos=http://[/"], None, "is no URL"),
        (["centos=http://a/$version"], None, r"has \$version in it"),
        (["centos=http://a/", "centos=http://b/"], None, "a mirror for centos was given before"),
        (["http://a/", "http://b/"], "centos-7", "a mirror for the base was given before"),
    ],
)
def test_what_is_no_mirror_is_refused(file: Path, words: list[str], wanted: str | None, reason: str) -> None:
    with pytest.raises(BuildError, match=reason) as caught:
        apply(*words, file=file, wanted=wanted)
    assert caught.value.hint or "before" in reason


def test_a_variable_that_is_no_mirror_is_named(file: Path) -> None:
    with pytest.raises(BuildError, match="OVERLAYD_DOCKER_MIRROR: 'x' is no URL"):
        apply(file=file, environment={"OVERLAYD_DOCKER_MIRROR": "x"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[centos-stream9", r"mirrors\.toml: Expected ']' .*at end of document"),
        ("[centos-8]", r"\[centos-8\]: there is no such base"),
        ("centos-7 = 1", "a base is a table, .*not a number"),
        ("[centos-7]\nBaseOS = 'file:///x'", r"\[centos-7\]: BaseOS: there is no such site"),
        ("[centos-7]\ncentos = true", r"\[centos-7\]: centos: a URL in quotes.* not true or false"),
        ("[centos-7]\ncentos = ['file:///x']", r"\[centos-7\]: centos: a URL in quotes.* not a list"),
        ("[centos-7]\ncentos = 'x'", r"\[centos-7\]: centos: 'x' is no URL"),
        ("[centos-7.centos]\nurl = 'file:///x'\nfinger = '1'", r"\[centos-7\]: centos: finger: unknown"),
        ("[centos-7.centos]\nurl = 3", r"\[centos-7\]: centos: url: a URL in quotes, not a number"),
        ("[centos-7.centos]\nkey = 'srv/key'", r"\[centos-7\]: centos: key: 'srv/key' is no URL"),
    ],
)
def test_what_is_wrong_with_the_file_is_named_by_file_table_and_key(file: Path, content: str, reason: str) -> None:
    file.write_text(content)
    with pytest.raises(BuildError, match=reason) as caught:
        apply(file=file)
    assert str(file) in caught.value.message


def test_a_file_that_is_no_text_is_an_error(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BuildError, match=str(file)):
        apply(file=file)


def test_the_committed_file_gives_no_mirror_and_its_examples_are_right(file: Path) -> None:
    lines = mirrors.FILE.read_text().splitlines()
    assert tomllib.loads("\n".join(lines)) == {}
    # An example is indented; its tables are those of several examples.
    examples = "\n".join(line.removeprefix("#") for line in lines if line.startswith("#   ")).split("   [")
    for example in examples[1:]:
        file.write_text("[" + "\n".join(line.strip() for line in example.splitlines()))
        apply(file=file)
    assert len(examples) == 5


def test_etcds_release_comes_from_its_own_mirror(file: Path) -> None:
    there = apply(file=file)["centos-7"]
    here = apply("etcd=file:///srv/etcd/", file=file)["centos-7"]
    assert etcd.release_url(there) == release.URL
    assert etcd.release_url(here) == f"file:///srv/etcd/v{release.VERSION}/{release.URL.rpartition('/')[2]}"


def test_the_catalogue_takes_mirrors() -> None:
    [base] = [one for one in catalogue.bases(["centos=file:///srv"]) if one.name == "centos-stream10"]
    assert all(one.url.startswith("file:///srv/10-stream/") for one in base.repositories if one.site == "centos")
