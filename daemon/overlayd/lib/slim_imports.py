"""Keeps memory small: libraries are imported without the parts that overlayd does not use, and free memory is returned.

Code that is not run takes no memory and no time at the start. All such imports go through `importing`. What it leaves
out is left out of the frozen program as well (rpm/freeze/left_out.py); tests/unit/lib/test_slim_imports.py
names what a daemon may hold and holds both lists to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType

_M_ARENA_MAX = -8  # malloc.h


@contextmanager
def importing(*, bare: Sequence[str] = (), without: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Import libraries inside this block.

    Packages in `bare` are there without having run their own `__init__`; their modules are imported as ever. Instead of
    modules in `without`, the libraries get what stands here; None makes an import fail. Modules that were there before
    stay what they were, and a later import of one of these gets the real one. Not for two threads at once.
    """
    for name in bare:
        if name not in sys.modules:
            sys.modules[name] = _not_run(name)
    stand_ins = {name: module for name, module in without.items() if name not in sys.modules}
    # ModuleType has no None in it, but the import system knows it (importlib.reference, sys.modules).
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def module(name: str, **contents: object) -> ModuleType:
    """A module of that name that holds this and nothing else."""
    made = ModuleType(name)
    vars(made).update(contents)
    return made


def share_one_heap() -> None:
    """Let all threads allocate from one heap: glibc gives each its own, which a dozen that mostly wait do not need.

    For the beginning, before there are threads. Does nothing with another C library.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the kernel the free memory that the C library keeps, most of it from the start-up.

    And what is there now, modules above all, is not searched for garbage again: to look at all of it takes as long as a
    few looks at the kernel.
    """
    # What was left out before may be garbage by now.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _not_run(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    return importlib.util.module_from_spec(spec)
