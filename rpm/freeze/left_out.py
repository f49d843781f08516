"""What is left out of the frozen program: modules that no file of ours imports, and that what we import does without.

Read by program.spec in the builder image (standard library only), and by the tests, which run the daemon without them.
"""

from __future__ import annotations

from importlib.util import find_spec

# Codecs, compressors and parsers that the standard library tries and does without, and tools that it drags in behind
# names we do import.
STANDARD_LIBRARY = (
    *("_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw", "_multibytecodec"),
    *("_bz2", "_lzma", "_pydecimal", "_uuid", "bz2", "lzma", "plistlib", "pyexpat", "xml", "xmlrpc"),
    *("doctest", "ftplib", "pdb", "pydoc", "smtplib", "tkinter"),
)

# What libraries import and the daemon keeps them from (daemon/overlayd/lib/slim_imports.py): the rest of pyroute2, of
# etcd3 and of gRPC, and what only these need.
REST_OF_LIBRARIES = (
    *(
        f"pyroute2.{name}"
        for name in (
            *("bsd", "conntrack", "devlink", "dhcp", "ethtool", "ext", "fixtures", "inotify", "ipdb", "ipvs"),
            *("iwutil", "minimal", "ndb", "nftables", "nslink", "plan9", "wiset"),
            *("netlink.connector", "netlink.devlink", "netlink.diag", "netlink.event", "netlink.generic.ethtool"),
            *("netlink.generic.ipvs", "netlink.generic.l2tp", "netlink.generic.mptcp", "netlink.ipq"),
            *("netlink.nl80211", "netlink.taskstats", "netlink.uevent"),
            *("netlink.rtnl.probe_msg", "netlink.rtnl.tcmsg"),
        )
    ),
    *(f"etcd3.{name}" for name in ("client", "events", "leases", "locks", "members", "transactions", "utils", "watch")),
    *("google.protobuf.internal.python_message", "google.protobuf.text_format", "google.protobuf.json_format"),
    *("grpc.aio", "multiprocessing", "six", "sqlite3", "tenacity", "unittest"),
)

# Imported by compiled code only, where PyInstaller does not see it: protobuf's, which crashes without.
UNSEEN = ("google.protobuf.internal.well_known_types",)

# gRPC's own list of CAs, in place of which it is given the user's or the system's (store/trust.py); its sources.
DATA_SUFFIXES = (".pem", ".h", ".cc", ".pyi")


def openssl_hashes() -> tuple[str, ...]:
    """hashlib's way to OpenSSL, 4 MB resident, where this Python has algorithms of its own too.

    EL's Python is built without them.
    """
    return ("_hashlib",) if find_spec("_sha2") or find_spec("_sha256") else ()


def modules() -> tuple[str, ...]:
    """All of them, for this Python."""
    return (*STANDARD_LIBRARY, *REST_OF_LIBRARIES, *openssl_hashes())
