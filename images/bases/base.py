"""What a base is: a release of a distribution, where its packages come from, and which of them make which image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from images.engine.graph import CACHE, Target

# What packages are installed for. Every base lists its packages for each role, or says why it cannot have it.
ROLES = ("base", "docker", "etcd", "builder", "probe", "machine")

# For the role "builder", by the same names on every base: what compiles the daemon's BPF programs (rpm/bpf.py). clang
# compiles them. bpftool leaves out DWARF; the rest of LLVM, which could do that too, is 60 MB. libbpf-devel has the
# headers of the helpers, and brings libbpf, by which the daemon loads them. kernel-headers has <linux/bpf.h> and the
# formats of packets.
BPF_TOOLS = ("clang", "bpftool", "libbpf-devel", "kernel-headers")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of signed packages, on a site that holds several.

    A mirror is named for `name` or for `site` (images.bases.mirrors); `title` is for people. `url` is the folder that
    holds repodata/; without a mirror it is `path` below the site. The public key is read from `key_url`, and used only
    when it has the fingerprint `key_fingerprint`.
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
        """The URL that answers when this repository can be reached."""
        return f"{self.url.rstrip('/')}/repodata/repomd.xml"


@dataclass(frozen=True, kw_only=True)
class Base:
    """An entry of the catalogue.

    Without --base the base is built that has the lowest `preference` of those whose repositories answer. `releasever`
    is what yum calls the release, `purl_namespace` is what package URLs call the distribution
    (https://github.com/package-url/purl-spec, the type rpm).
    `packages` are the names of packages by role, `enable` the units that are enabled in the image of a role. `lacks`
    says of a role why the base cannot have it. `bootstrap` is for a release whose RPM database this machine's rpm
    cannot write: these packages make a first root, whose yum installs the packages of the images (images.bases.dnf).
    `kernel` is the suite of Debian whose kernel its virtual machines boot; without one it has no disk image
    (images.machine).
    `rpm_dbpath` is the folder where the release's own rpm keeps its database. `python` is the command of its newest
    Python. `cgroups` are the cgroup versions on which its systemd starts: 1 until systemd 255, 2 since systemd 239 or
    so. `locale` is that of a container which is started without one.

    `sites` are the servers that packages come from, by name, the main one first. `mirrors` are the URLs that were given
    in their place. `questions` gives the URLs that must answer so that the base can be built; it raises BuildError when
    it cannot be built here for another reason. `repository_targets` makes the targets of the packages. The first of
    them asks the mirrors. The last makes `repository`, a folder with the packages of all roles; `keys`, the public keys
    that it is checked against; and `packages_file`, with the versions.
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
    kernel: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> Path:
        """The folder of this base's packages, below the build folder."""
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
        """A file with the versions of all packages in `repository`: the facts of the target that makes that."""
        return self.folder / "packages.json"

    @property
    def repository_target(self) -> str:
        """The name of the target that makes `repository`."""
        return f"bases.{self.name}.repository"

    @property
    def signed(self) -> bool:
        """Whether packages have the signature of their distribution. Else the metadata is signed, by a key of ours."""
        return bool(self.repositories)

    @property
    def installing(self) -> dict[str, object]:
        """What decides how packages are installed, beside their names: values that are inputs of images."""
        return {
            **{"base": self.name, "releasever": self.releasever, "rpm_dbpath": self.rpm_dbpath},
            **{"bootstrap": self.bootstrap, "signed": self.signed},
        }

    def site(self, name: str) -> str:
        """The URL of a site, or of its mirror where one was given; without a slash at the end."""
        return self.mirrors.get(name, self.sites[name]).rstrip("/")

    def tag(self, image: str) -> str:
        """The tag of an image on this base: `overlayd/etcd:debian12-rpm`."""
        return f"overlayd/{image}:{self.name}"
