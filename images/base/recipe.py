"""overlayd/base: a system container, made of a base's packages that are installed into an empty folder."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from images.bases import dnf
from images.bases.base import Base
from images.bases.product import Product, image_target
from images.engine import inputs, sandbox
from images.engine import target as targets
from images.engine.containers import ImageConfig
from images.engine.errors import BuildError
from images.engine.graph import Target
from images.engine.step import Step

FILES = Path("images/base/files")
EXAMPLE = Path("images/base/example")
# The licence of this project's own files, which are in this image and in those made of it.
LICENCE = Path("LICENSE")

_PROGRAMS = "/usr/libexec/system-container"
# A container starts with a program that checks whether systemd can run there, and then becomes systemd. `docker stop`
# sends SIGRTMIN+3, at which systemd shuts down (systemd(1)). Each health check starts a process, hence every 10 s only.
CONFIG = ImageConfig(
    description="A system container: systemd, sshd, cron, journald",
    command=(f"{_PROGRAMS}/start",),
    env={"container": "docker"},
    stop_signal="SIGRTMIN+3",
    healthcheck=(f"{_PROGRAMS}/health",),
    health_interval_s=10,
    health_timeout_s=5,
    health_start_s=60,
)
# Our own units that are enabled, beside those of the base.
ENABLED = ("container-settings.service", "container-ssh-keys.service", "container-ssh-keys.path")

# Units that work on the kernel, devices or disks of the machine, which a container shares with others; and logins on
# terminals that a container does not have.
MASKED = (
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "proc-sys-fs-binfmt_misc.automount"),
    *("proc-sys-fs-binfmt_misc.mount", "systemd-binfmt.service", "systemd-remount-fs.service"),
    *("systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket"),
    *("systemd-udev-trigger.service", "systemd-udev-settle.service", "systemd-modules-load.service"),
    *("kmod-static-nodes.service", "systemd-sysctl.service", "systemd-random-seed.service", "systemd-pstore.service"),
    *("systemd-machine-id-commit.service", "systemd-firstboot.service", "systemd-hwdb-update.service"),
    *("getty.target", "console-getty.service", "getty@.service", "e2scrub_all.timer", "e2scrub_reap.service"),
    *("fstrim.timer", "dnf-makecache.timer", "dnf-makecache.service", "remote-fs.target"),
)
_DIRS = {
    **{"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o1777, "home": 0o755, "var/tmp": 0o1777},
    # For a mount with public keys; container-ssh-keys watches and reads it.
    "etc/ssh/authorized_keys.d": 0o755,
}


def _targets(base: Base) -> tuple[Target, ...]:
    def build(step: Step) -> None:
        root = step.scratch / "root"
        dnf.install_root(step, base, root, base.packages["base"])
        prepare(step, base, root)
        clean(root, base)
        step.import_root(root, CONFIG)

    image = targets.target(
        name=image_target("base"),
        build=build,
        code=[Path(__file__)],
        values={
            **base.installing,
            **{"packages": base.packages["base"], "enable": base.enable.get("base", ())},
            **{"config": vars(CONFIG), "cgroups": base.cgroups, "locale": base.locale},
        },
        tools=("dnf", "rpm", "tar"),
        files=(FILES, EXAMPLE, LICENCE),
        needs=(base.repository_target,),
        image=base.tag("base"),
    )
    return (image,)


def prepare(step: Step, base: Base, root: Path) -> None:
    """Make a root filesystem boot as a container: add our files and mount points, mask and enable units."""
    for name, mode in _DIRS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    copy_files(step.checkout / FILES, root)
    copy_files(step.checkout / EXAMPLE, root / "usr/share/doc/system-container/example")
    (licences := root / "usr/share/licenses/system-container").mkdir(parents=True, exist_ok=True)
    shutil.copy2(step.checkout / LICENCE, licences)
    settle(root, base)
    units = root / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    step.run(sandbox.inside(root, ["systemctl", "enable", *base.enable.get("base", ()), *ENABLED]))
    # No account has a password: one logs in with a key.
    step.run(sandbox.inside(root, ["usermod", "--lock", "root"]))
    open_accounts = accounts_without_password((root / "etc/shadow").read_text())
    if open_accounts:
        raise BuildError(f"base {base.name}: accounts that need no password: {', '.join(open_accounts)}")
    step.run(sandbox.inside(root, ["sh", "-c", f'test -z "$(LC_ALL={base.locale} locale charmap 2>&1 >/dev/null)"']))


def settle(root: Path, base: Base) -> None:
    """Write the settings that differ between bases: cgroup versions, locale, and sshd's rules for an old sshd."""
    (share := root / "usr/share/system-container").mkdir(parents=True, exist_ok=True)
    (share / "cgroups").write_text(" ".join(map(str, base.cgroups)) + "\n")
    (root / "etc/locale.conf").write_text(f"LANG={base.locale}\n")
    if (root / "etc/default").is_dir():
        # On Debian PAM reads the locale of a login from this file.
        (root / "etc/default/locale").unlink(missing_ok=True)
        (root / "etc/default/locale").symlink_to("../locale.conf")
    main, ours = root / "etc/ssh/sshd_config", root / "etc/ssh/sshd_config.d/10-container.conf"
    if not includes_folder(main.read_text()):
        # An old sshd, as that of CentOS 7, has no Include: our rules go to the top of its file, as the first value
        # wins.
        main.write_text(ours.read_text() + "\n" + main.read_text())
        shutil.rmtree(ours.parent)
    # journald keeps the journal on disk when this folder exists. Docker makes it when a volume is mounted there.
    shutil.rmtree(root / "var/log/journal", ignore_errors=True)


def includes_folder(sshd_config: str) -> bool:
    """Whether an sshd_config reads the files of sshd_config.d."""
    words = (line.split() for line in sshd_config.splitlines())
    return any(line[:1] == ["Include"] and "/etc/ssh/sshd_config.d/*.conf" in line[1:] for line in words)


def accounts_without_password(shadow: str) -> list[str]:
    """The accounts of an /etc/shadow that can be logged into with an empty password."""
    return [fields[0] for line in shadow.splitlines() if len(fields := line.split(":")) > 1 and not fields[1]]


def copy_files(source: Path, root: Path) -> None:
    """Copy the files and links of a folder of `step.checkout` into a root filesystem."""
    for file in inputs.files_of(source):
        place = root / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        shutil.copy2(file, place, follow_symlinks=False)


def clean(root: Path, base: Base) -> None:
    """Remove traces of when and where a root filesystem was made, and give it an empty /etc/machine-id.

    systemd fills the empty file in when a container starts, so that no two containers have the same.
    """
    for pattern in (
        *dnf.leftovers(base),
        *("var/lib/yum/*", "etc/BUILDTIME", "root/.rpmdb"),
        *("etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "etc/hostname", "etc/resolv.conf", "run/*", "tmp/*"),
    ):
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / "etc/machine-id").write_text("")
    database = root / base.rpm_dbpath.lstrip("/") / "rpmdb.sqlite"
    if database.exists():
        # Ending the write-ahead mode writes its journal into the database, and removes the -wal and -shm files.
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")


PRODUCT = Product(name=image_target("base"), roles=("base",), targets=_targets, build_all=(image_target("base"),))
