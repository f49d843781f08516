"""Fetches a base's packages from the repositories of its distribution, signatures checked, into the local one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from images.bases import dnf, keys, mirror_probe
from images.bases.base import Base, Repository
from images.engine import sandbox, target
from images.engine.errors import BuildCommandFailed, BuildError
from images.engine.graph import Target
from images.engine.step import Step

# A mirror has failed that sends nothing for 20 s, or less than 1000 bytes in a second.
_PATIENCE = ("--setopt=timeout=20", "--setopt=minrate=1000", "--setopt=retries=2")


def targets(base: Base) -> tuple[Target, ...]:
    """The target that fetches all packages of all roles, and what they need, into one folder."""
    packages = wanted(base)

    def build(step: Step) -> None:
        fetch(step, base, packages)

    # The URLs are no input: packages that are signed by the same key are the same on every mirror.
    vouched = {repository.name: repository.key_fingerprint for repository in base.repositories}
    return (
        target.target(
            name=base.repository_target,
            build=build,
            code=[Path(__file__)],
            values={"packages": packages, "repositories": vouched, "releasever": base.releasever},
            tools=("dnf", "rpm", "createrepo_c"),
            outputs=(base.repository, base.keys, base.packages_file),
            facts=base.packages_file,
            network=True,
        ),
    )


def wanted(base: Base) -> list[str]:
    """The names of all packages of a base."""
    return sorted({*(name for names in base.packages.values() for name in names), *base.bootstrap})


def fetch(step: Step, base: Base, packages: list[str]) -> None:
    """Download packages and their dependencies into one repository, signatures checked against the expected keys.

    Raises BuildError for a mirror that does not answer or sends something else, and for a package that does not exist.
    """
    sandbox.require_root_user()
    sandbox.require("dnf", "createrepo_c")
    ask(base)
    out = step.output(base.repository)
    out.mkdir(parents=True)
    by_place = {(one.key_url, one.key_fingerprint): one for one in base.repositories}
    trusted = step.output(base.keys)
    trusted.write_bytes(b"\n".join(keys.fetch(repository) for repository in by_place.values()))
    repos = step.scratch / "repos.d"
    repos.mkdir()
    (repos / "base.repo").write_text("".join(_section(one, trusted) for one in base.repositories))
    root = step.scratch / "root"
    root.mkdir()
    # With --downloadonly dnf resolves dependencies against an empty root, downloads, then checks the signatures.
    command = [
        *("dnf", "--assumeyes", f"--installroot={root}", f"--setopt=reposdir={repos}", *_PATIENCE),
        *(f"--releasever={base.releasever}", "--setopt=install_weak_deps=False", "--downloadonly"),
        *(f"--downloaddir={out}", "install", *packages),
    ]
    try:
        step.run(command, env=dnf.home(step, base))
    except BuildCommandFailed as error:
        asked = "\n".join(f"    {one.name}: {one.url}" for one in base.repositories)
        raise dnf.explained(error, base, hint=f"these repositories were asked:\n{asked}") from error
    step.run(["createrepo_c", "--quiet", out])
    step.write_facts(dnf.facts(step, out))


def ask(base: Base) -> None:
    """Check that all repositories answer with repository metadata. Raises BuildError that names the URL.

    dnf would find out, too, but would call a web page an XML parse error.
    """
    with ThreadPoolExecutor(max_workers=len(base.repositories)) as pool:
        found = list(
            pool.map(lambda one: mirror_probe.problem(one.question, mirror_probe.TIMEOUT_S), base.repositories)
        )
    wrong = [
        f"{one.title}, {one.url}: {problem}"
        for one, problem in zip(base.repositories, found, strict=True)
        if problem is not None
    ]
    if wrong:
        raise BuildError(
            "\n".join(wrong), hint="name a mirror: --mirror, or images/mirrors.toml (images/bases/README.md)"
        )


def _section(repository: Repository, trusted: Path) -> str:
    return (
        f"[{repository.name}]\nname={repository.title}\nbaseurl={repository.url}\nenabled=1\ngpgcheck=1\n"
        f"skip_if_unavailable=0\ngpgkey=file://{trusted}\n\n"
    )
