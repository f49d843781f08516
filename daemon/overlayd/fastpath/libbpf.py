"""libbpf, as much of it as is needed: load an object, write and read its maps. By ctypes, without a compiler here.

Source: libbpf's bpf.h and libbpf.h, the same calls from 0.5 (EL 8) to 1.5.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Self

from overlayd.errors import UnsupportedError

# The frozen program finds its own, as it does its other libraries (rpm/freeze/private_libc.py).
_LIBRARIES = ("libbpf.so.1", "libbpf.so.0")
_BPF_ANY = 0


class Map:
    """A map of a loaded object. Keys and values are bytes, as the program has them."""

    def __init__(self, library: ctypes.CDLL, fd: int, name: str, sizes: tuple[int, int]) -> None:
        """`sizes` are those of a key and of a value, in bytes."""
        self._library = library
        self._fd = fd
        self._name = name
        self._key_bytes, self._value_bytes = sizes

    def write(self, key: bytes, value: bytes) -> None:
        """Write an entry, in place of one with that key. Raises OSError."""
        self._check(self._library.bpf_map_update_elem(self._fd, key, value, ctypes.c_uint64(_BPF_ANY)))

    def read(self, key: bytes) -> bytes | None:
        """The value with that key, of all processors one after the other where each has its own; None without one."""
        value = ctypes.create_string_buffer(self._value_bytes)
        try:
            self._check(self._library.bpf_map_lookup_elem(self._fd, key, value))
        except FileNotFoundError:
            return None
        return value.raw

    def delete(self, key: bytes) -> None:
        """Take an entry away, if it is there. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._check(self._library.bpf_map_delete_elem(self._fd, key))

    def keys(self) -> Iterator[bytes]:
        """All keys. One that comes or goes meanwhile may be there or not. Raises OSError."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self._key_bytes)
        while True:
            try:
                self._check(self._library.bpf_map_get_next_key(self._fd, key, following))
            except FileNotFoundError:
                return
            key = following.raw
            yield key

    def _check(self, result: int) -> None:
        if result < 0:
            # libbpf 0.x returns -1 and sets errno, 1.x returns the negative error.
            code = -result if result < -1 else ctypes.get_errno()
            raise OSError(code, f"map {self._name}: {os.strerror(code)}")


class Loaded:
    """An object whose programs and maps are in the kernel, until it is closed and nobody else holds them."""

    def __init__(self, data: bytes) -> None:
        """Load the content of an object file. Raises UnsupportedError where libbpf is missing or the kernel refuses."""
        self._library = _library()
        self._library.libbpf_set_print(None)
        self._object: ctypes.c_void_p | None = ctypes.c_void_p(
            self._library.bpf_object__open_mem(data, ctypes.c_size_t(len(data)), None)
        )
        if not self._object:
            raise UnsupportedError("libbpf cannot read the fast path's programs")
        result = self._library.bpf_object__load(self._object)
        if result < 0:
            self.close()
            raise UnsupportedError(_refused(-result))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def program(self, name: str) -> int:
        """The file descriptor of a program, which belongs to this object. Raises KeyError."""
        return self._fd("program", name)

    def map(self, name: str, sizes: tuple[int, int]) -> Map:
        """A map by its name, with the sizes of keys and values in bytes. Raises KeyError."""
        return Map(self._library, self._fd("map", name), name, sizes)

    def _fd(self, kind: str, name: str) -> int:
        found = getattr(self._library, f"bpf_object__find_{kind}_by_name")(self._object, name.encode())
        if not found:
            raise KeyError(name)
        return int(getattr(self._library, f"bpf_{kind}__fd")(ctypes.c_void_p(found)))

    def close(self) -> None:
        """Let go of programs and maps; those that are attached stay in the kernel."""
        if self._object is not None:
            self._library.bpf_object__close(self._object)
            self._object = None


def _refused(code: int) -> str:
    if code == errno.EPERM:
        # Kernels before 5.8, and containers of Docker before 23, have no CAP_BPF.
        return "the kernel does not let overlayd load BPF programs: that takes CAP_BPF, before 5.8 CAP_SYS_ADMIN"
    if code == errno.EACCES:
        # Before Linux 6.6 the verifier lets nobody else compare addresses of packets.
        return "this kernel does not admit the fast path's programs: before Linux 6.6 that takes CAP_PERFMON"
    return f"this kernel does not load the fast path's programs: {errno.errorcode.get(code, code)}"


def processors() -> int:
    """How many values a map has that keeps one for each processor. Raises UnsupportedError."""
    return int(_library().libbpf_num_possible_cpus())


def _library() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        for call in ("bpf_object__open_mem", "bpf_object__find_program_by_name", "bpf_object__find_map_by_name"):
            getattr(library, call).restype = ctypes.c_void_p
        return library
    raise UnsupportedError("there is no libbpf here: install the package libbpf (Debian: libbpf1)")
