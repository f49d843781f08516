"""What a base is: a release of a distribution, where its packages come from, and which of them make which image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from images.engine.graph import CACHE, Target

# What images are made of packages for; every base says what it installs for each, or why it cannot have it.
ROLES = ("base", "docker", "etcd", "builder", "probe")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of signed packages, on a site that holds several.

    `name` and `site` are what a mirror is given by (images.bases.mirrors), `title` is for people. `url` is the folder
    that holds repodata/; without a mirror it is `path` below the site. `key_url` is where the public key is published:
    it is used only when it is the one key with the fingerprint `key_fingerprint`.
    """

    name: str
    title: str
    site: str
    path: str
    url: str
    key_url: str
    key_fingerprint: str

    @property
    def question(self) -> str:
        """The URL that answers when this repository is there."""
        return f"{self.url.rstrip('/')}/repodata/repomd.xml"


@dataclass(frozen=True, kw_only=True)
class Base:
    """An entry of the catalogue.

    Without --base the base is built that has the lowest `preference` of those whose repositories answer. `releasever`
    is what yum calls the release, `purl_namespace` is what package URLs call the distribution
    (https://github.com/package-url/purl-spec, the type rpm).
    `packages` are names by role; `enable` are the units that run in an image of a role; `lacks` says why a role cannot
    be had. `bootstrap` are the packages of a first root, whose own yum then installs the images' (images.bases.dnf):
    for a release whose RPM database this machine's rpm cannot write. `rpm_dbpath` is where this release's own rpm keeps
    it. `python` is its newest interpreter's command. `cgroups` are the cgroup versions that its systemd starts on:
    1 until 255, 2 since 239 or so. `locale` is the one that a container has when it is asked for no other.

    `sites` are the servers that packages come from, by name, the main one first; `mirrors` are what was given in their
    place. `questions` gives the URLs that must answer for the base to be built; asking for them may raise BuildError,
    which says why it cannot be built here. `repository_targets` are the targets whose first asks the mirrors, and whose
    last makes `repository`, a folder with all packages of all roles, `keys`, the public keys it is checked against, and
    `packages_file`, which tells their versions.
    """

    name: str
    title: str
    preference: int
    releasever: str
    purl_namespace: str
    packages: Mapping[str, tuple[str, ...]]
    enable: Mapping[str, tuple[str, ...]]
    rpm_dbpath: str
    python: str
    questions: Callable[[Base], tuple[str, ...]]
    repository_targets: Callable[[Base], tuple[Target, ...]]
    sites: Mapping[str, str]
    repositories: tuple[Repository, ...] = ()
    mirrors: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    bootstrap: tuple[str, ...] = ()
    cgroups: tuple[int, ...] = (1, 2)
    packaged_etcd: bool = True
    locale: str = "C.UTF-8"
    notes: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> Path:
        """Where what is made for this base lies, below the build folder."""
        return CACHE / "bases" / self.name

    @property
    def repository(self) -> Path:
        """The local repository that images of this base are made from, below the build folder."""
        return self.folder / "repo"

    @property
    def keys(self) -> Path:
        """The public keys that `repository` is checked against, below the build folder: beside it, and never inside."""
        return self.folder / "keys/packages.asc"

    @property
    def packages_file(self) -> Path:
        """The versions of all packages in `repository`, below the build folder: facts of the target that makes it."""
        return self.folder / "packages.json"

    @property
    def repository_target(self) -> str:
        """The name of the target that makes `repository`."""
        return f"bases.{self.name}.repository"

    @property
    def signed(self) -> bool:
        """Whether the packages carry their distribution's signature. Of those that we make, we sign the metadata."""
        return bool(self.repositories)

    @property
    def installing(self) -> dict[str, object]:
        """What decides how its packages are installed, beside the packages: values for inputs."""
        return {
            **{"base": self.name, "releasever": self.releasever, "rpm_dbpath": self.rpm_dbpath},
            **{"bootstrap": self.bootstrap, "signed": self.signed},
        }

    def site(self, name: str) -> str:
        """The URL of a site, or of the mirror in its place; without a slash at its end."""
        return self.mirrors.get(name, self.sites[name]).rstrip("/")

    def tag(self, image: str) -> str:
        """The tag of an image on this base: `overlayd/etcd:debian12-rpm`."""
        return f"overlayd/{image}:{self.name}"
