"""Modules that are left out of the frozen program: the daemon does not import them, and its libraries can do without.

Read by program.spec in the builder image (standard library only), and by the tests, which run the daemon without them.
"""

from __future__ import annotations

from importlib.util import find_spec

# Codecs, compressors and parsers that the standard library imports if they are there, and tools that come along with
# modules that we import.
STANDARD_LIBRARY = (
    *("_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw", "_multibytecodec"),
    *("_bz2", "_lzma", "_pydecimal", "_uuid", "bz2", "lzma", "plistlib", "pyexpat", "xml", "xmlrpc"),
    *("doctest", "ftplib", "pdb", "pydoc", "smtplib", "tkinter"),
)

# Parts of etcd3 and gRPC that the daemon does not let these import (daemon/overlayd/lib/slim_imports.py), and
# what only these parts need.
REST_OF_LIBRARIES = (
    *(f"etcd3.{name}" for name in ("client", "events", "leases", "locks", "members", "transactions", "utils", "watch")),
    *("google.protobuf.internal.python_message", "google.protobuf.text_format", "google.protobuf.json_format"),
    *("asyncio", "grpc.aio", "multiprocessing", "six", "sqlite3", "tenacity", "unittest"),
)

# protobuf's compiled code imports it, which PyInstaller does not see; without it protobuf crashes.
UNSEEN = ("google.protobuf.internal.well_known_types",)

# gRPC's list of CAs, in place of which it gets the user's or the system's (store/trust.py); and source files.
DATA_SUFFIXES = (".pem", ".h", ".cc", ".pyi")


def openssl_hashes() -> tuple[str, ...]:
    """The module by which hashlib uses OpenSSL (4 MB resident), where this Python has its own algorithms too.

    EL's Python is built without its own.
    """
    return ("_hashlib",) if find_spec("_sha2") or find_spec("_sha256") else ()


def modules() -> tuple[str, ...]:
    """All modules that are left out on this Python."""
    return (*STANDARD_LIBRARY, *REST_OF_LIBRARIES, *openssl_hashes())
