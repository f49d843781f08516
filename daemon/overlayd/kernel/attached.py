"""BPF programs at the two ends of an interface: by TCX where the kernel has it, else as filters of clsact.

Those of a network of this host are known by their mark: ids that are noted (program_ids.py), names of filters (tc.py).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterator

from overlayd.errors import KernelRefused
from overlayd.kernel import program_ids, tc, tcx
from overlayd.kernel.tc import Direction, Filter

# The names of our programs in the kernel begin so (daemon/bpf/fastpath.bpf.c).
NAMES = "overlayd_"


def read(index: int) -> tuple[Filter, ...]:
    """All that sees packets at an interface, whosever it is, in that order; empty where it is gone.

    Raises KernelRefused.
    """
    found = []
    for direction in Direction:
        row = _row(index, direction)
        if row is None or not row.ids:
            continue
        ours = program_ids.of_ours()
        others = program_ids.of_others() if set(row.ids) - ours else frozenset()
        for one in row.ids:
            of_overlayd = one in ours or one in others
            name = "" if of_overlayd else tcx.name_of(one) or ""
            found.append(
                Filter(
                    index=index,
                    direction=direction,
                    kind="tcx",
                    handle=one,
                    name=name,
                    ours=one in ours,
                    of_overlayd=of_overlayd,
                )
            )
    return (*found, *tc.filters(index))


def attach(index: int, direction: Direction, name: str, program_fd: int) -> None:
    """Put a program there, in place of the one of ours that is there; no packet passes without one meanwhile.

    It comes after others' programs. Raises KernelRefused, OverlaydError.
    """
    row = _row(index, direction)
    if row is None:
        tc.attach(index, direction, name.removeprefix(NAMES), program_fd)
        return
    try:
        own = tcx.id_of(program_fd)
        noted = program_ids.of_ours()
        if own not in noted:
            program_ids.note(noted | {own})
        before = [one for one in row.ids if one in noted and one != own]
        if own not in row.ids:
            # Both are there for a moment, and what the first takes the second does not see.
            tcx.attach(index, direction, program_fd, after=before[-1] if before else None)
        for one in before:
            tcx.detach(index, direction, one)
    except OSError as error:
        raise KernelRefused("program attach", f"{name} to interface {index}", error.errno or errno.EIO) from error
    # Of an overlayd that knew clsact only.
    tc.detach(index, keep=set(Direction) - {direction})


def detach(index: int, *, keep: Collection[Direction] = ()) -> bool:
    """Take our programs off an interface, but those of the directions `keep`; whether there were any.

    Raises KernelRefused.
    """
    return _detach(index, keep, program_ids.of_ours())


def keep_only(indexes: Collection[int]) -> None:
    """Take our programs off all other interfaces, and forget the ids of those that are gone. Raises KernelRefused."""
    noted, there = program_ids.of_ours(), set[int]()
    for index, _name in socket.if_nameindex():
        if index not in indexes:
            _detach(index, (), noted)
        there |= _ids(index)
    if noted:
        program_ids.note(noted & there)


def cleanup() -> Iterator[str]:
    """Take our programs off every interface, also after a crash; yields what was removed. Raises KernelRefused.

    With CAP_SYS_ADMIN, also those without a note, which only their names tell of.
    """
    noted, others = program_ids.of_ours(), program_ids.of_others()
    for index, name in socket.if_nameindex():
        unknown = _ids(index) - noted - others
        ours = noted | {one for one in unknown if (tcx.name_of(one) or "").startswith(NAMES)}
        if _detach(index, (), ours):
            yield f"fast path at {name}"
    yield from program_ids.forget()


def _detach(index: int, keep: Collection[Direction], ours: Collection[int]) -> bool:
    found = False
    for direction in set(Direction) - set(keep):
        row = _row(index, direction) or tcx.Row()
        try:
            for one in set(row.ids) & set(ours):
                found = tcx.detach(index, direction, one) or found
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise KernelRefused("program detach", f"at interface {index}", error.errno or errno.EIO) from error
    return tc.detach(index, keep=keep) or found


def _ids(index: int) -> set[int]:
    return {one for direction in Direction for one in (_row(index, direction) or tcx.Row()).ids}


def _row(index: int, direction: Direction) -> tcx.Row | None:
    try:
        return tcx.read(index, direction)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return tcx.Row()
        raise KernelRefused("program list", f"of interface {index}", error.errno or errno.EIO) from error
