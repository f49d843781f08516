"""Makes certificates, users and rights for an etcd in which only the hosts of an overlay network write.

What is there already stays; what is missing is made. So it may be run again, also after it was killed halfway.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from etcd_container import data, offline, passwords, rights, settings, start, users
from etcd_container.ctl import Ctl, Failed, plain
from etcd_container.problem import Problem, Refused

NAME = "etcd-setup"
_HOST_FOLDER = "/etc/overlayd"
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when all is made; 2 when something is wrong and nothing was changed; 1 when it must run again."""
    options = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    os.umask(0o077)
    try:
        _check(options)
        with _alone(options.folder):
            _certificates(options.folder, options.names)
            _users(options)
        sys.stdout.write(_last_lines(options))
    except Refused as error:
        sys.stderr.write(f"{NAME}: {error.problem.text()}\n")
        return 2
    except (Failed, OSError) as error:
        sys.stderr.write(f"{NAME}: error: {error}\n  what is made stays; run it again and it goes on from there\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NAME,
        usage="%(prog)s (--offline | --endpoints URL,…) [OPTION…] FOLDER [NAME=IP:ADDRESS[,DNS:NAME…]…] [CLIENT…]",
        description="Make certificates, users and roles for an etcd that overlayd uses, and have it ask for a login.",
        epilog="Certificates are made as etcd-certificates makes them, where names are given. etcdctl's variables "
        "ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY stand for the options.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--offline", action="store_true", help="etcd is not started yet: its data is on the volume, its settings ETCD_…"
    )
    parser.add_argument("--endpoints", default="", help="where etcd is reached, comma separated")
    parser.add_argument("--cacert", default="", help="the CA of etcd's certificates (default: FOLDER/ca.pem)")
    parser.add_argument("--cert", default="", help="a certificate to show, where etcd asks for one")
    parser.add_argument("--key", default="", help="its key")
    parser.add_argument("--prefix", default=rights.PREFIX, help="where the network is kept (default: %(default)s)")
    parser.add_argument(
        "--user", default=rights.HOST, help="the hosts' user (default: %(default)s); USER-admin is the administrator's"
    )
    parser.add_argument(
        "--switch-on", action="store_true", help="also where others keep keys in this etcd: they need a login then"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the secrets are, a folder for each user")
    parser.add_argument("names", nargs="*", metavar="NAME", help="members and clients, as for etcd-certificates")
    return parser


def _check(options: argparse.Namespace) -> None:
    if not options.offline and not options.endpoints:
        options.endpoints = os.environ.get("ETCDCTL_ENDPOINTS", "")
    if options.offline == bool(options.endpoints):
        hint = "say --endpoints=https://HOST:2379 for an etcd that runs; --offline for one that will be started"
        raise Refused(Problem("say where etcd is, by one of --offline and --endpoints", hint))
    if not re.fullmatch(r"(/[^/\s]+)+", options.prefix):
        raise Refused(Problem(f"--prefix is {options.prefix!r}", f"as in {rights.PREFIX}"))
    if not _USER.fullmatch(options.user) or options.user == users.ROOT:
        raise Refused(Problem(f"--user is {options.user!r}", "a name of letters, digits, dots and dashes; not root"))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder, as two processes would each make passwords. Raises Refused when another has it."""
    if not folder.is_dir():
        folder.mkdir(mode=0o755, parents=True)
        folder.chmod(0o755)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for place in (folder, *(one for one in folder.iterdir() if one.is_symlink() or one.is_dir())):
            if place.is_symlink() and place != folder:
                raise Refused(
                    Problem(f"{place} is a link", "make it a folder; secrets go where nobody else leads them")
                )
            if place.stat().st_mode & 0o002:
                what = f"everybody may write into {place}, and put files into the places of ours"
                raise Refused(Problem(what, f"chmod o-w {place}, once you have looked what is in it"))
        yield
    except BlockingIOError:
        raise Refused(Problem(f"another {NAME} works in {folder}", "wait for it, then run this again")) from None
    finally:
        os.close(descriptor)


def _certificates(folder: Path, names: Sequence[str]) -> None:
    if not names:
        return
    # It lies beside this command, which may be in a checkout.
    command = Path(__file__).resolve().parents[3] / "bin/etcd-certificates"
    status = subprocess.run(["sh", str(command), str(folder), *names], check=False).returncode
    if status:
        raise Refused(Problem("the certificates were not made", "see above")) if status == 2 else Failed("see above")


def _users(options: argparse.Namespace) -> None:
    roles = rights.of(options.prefix, options.user)
    desired = users.DesiredUsers(options.folder, options.prefix, roles, options.switch_on)
    if options.offline:
        _users_offline(options, desired)
    else:
        users.ensure(Ctl(_variables(options)), desired, _report)
    authority = _authority(options)
    if authority is None:
        return
    for user in (users.ROOT, *desired.roles):
        path = options.folder / user / "ca.pem"
        if not path.exists() or path.read_bytes() != authority:
            passwords.write(path, authority, mode=0o644)


def _users_offline(options: argparse.Namespace, desired: users.DesiredUsers) -> None:
    place = Path(os.environ.get("ETCD_DATA_DIR") or settings.DATA)
    made = {"prefix": options.prefix, "user": options.user}
    if data.locked(place) and data.has_users(place, made):
        _report("etcd runs, and has its users since it was set up")
        return
    with offline.etcd(os.environ, address=start.address()) as ctl:
        users.ensure(ctl, desired, _report)
    data.note_users(place, made)
    offline.give(data.record_of_users(place))


def _variables(options: argparse.Namespace) -> dict[str, str]:
    authority = options.folder / "ca.pem"
    found = {
        "ETCDCTL_ENDPOINTS": options.endpoints,
        "ETCDCTL_CACERT": options.cacert
        or os.environ.get("ETCDCTL_CACERT")
        or (authority if authority.exists() else ""),
        "ETCDCTL_CERT": options.cert or os.environ.get("ETCDCTL_CERT"),
        "ETCDCTL_KEY": options.key or os.environ.get("ETCDCTL_KEY"),
    }
    # etcdctl refuses a CA for a URL without TLS.
    plain = not options.endpoints.startswith("https://")
    return {name: str(value) for name, value in found.items() if value and not (plain and name != "ETCDCTL_ENDPOINTS")}


def _authority(options: argparse.Namespace) -> bytes | None:
    own = options.folder / "ca.pem"
    given = options.cacert or (None if options.offline else _variables(options).get("ETCDCTL_CACERT"))
    path = Path(given) if given else own
    return path.read_bytes() if path.exists() else None


def _endpoints(options: argparse.Namespace) -> str:
    if options.endpoints:
        return str(options.endpoints)
    first = [name.partition("=")[2].split(",")[0].partition(":")[2] for name in options.names if "=" in name]
    hosts = [f"[{host}]" if ":" in host else host for host in first] or ["ETCD"]
    return ",".join(f"https://{host}:2379" for host in hosts)


def _last_lines(options: argparse.Namespace) -> str:
    """The text that says how to use what was made."""
    own = options.folder / options.user
    endpoints = _endpoints(options)
    lines = [f"OVERLAYD_ETCD_ENDPOINTS={endpoints}"]
    if (own / "ca.pem").exists():
        lines.append(f"OVERLAYD_ETCD_CAFILE={_HOST_FOLDER}/ca.pem")
    if (own / "cert.pem").exists():
        lines.append(f"OVERLAYD_ETCD_CERTFILE={_HOST_FOLDER}/cert.pem")
        lines.append(f"OVERLAYD_ETCD_KEYFILE={_HOST_FOLDER}/key.pem")
    lines.append(f"OVERLAYD_ETCD_USERNAME={options.user}")
    lines.append(f"OVERLAYD_ETCD_PASSWORD_FILE={_HOST_FOLDER}/{passwords.FILE}")
    if options.prefix != rights.PREFIX:
        lines.append(f"OVERLAYD_ETCD_PREFIX={options.prefix}")
    admin = rights.admin(options.user)
    text = (
        f"\netcd asks for a login. A host gets the files of {own}, as {_HOST_FOLDER}, and no others.\n"
        f"{options.user} may read the network config and write leases. {admin} may write the network config:\n"
        f"  overlayd config set --etcd-username={admin} "
        f"--etcd-password-file={passwords.file_of(options.folder, admin)} …\n"
    )
    if not endpoints.startswith("https://"):
        text += "warning: passwords and leases travel without TLS: whoever listens on the way has them\n"
    return f"{text}Into /etc/sysconfig/overlayd of each host:\n\n" + "".join(f"    {line}\n" for line in lines)


def _report(text: str) -> None:
    sys.stdout.write(f"{NAME}: {plain(text)}\n")
    sys.stdout.flush()


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
