"""BPF programs as filters of the queueing discipline clsact (tc-bpf(8)), where the kernel has no TCX (attached.py).

Others may use clsact too. Ours have our name and our preference.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterator
from enum import IntEnum

from overlayd.errors import KernelRefused
from overlayd.kernel.messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    change,
    dump,
    string,
    text,
    word,
)
from overlayd.lib import marks
from overlayd.lib.quick_dataclass import dataclass

# linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 36, 37, 44, 45, 46
TC_H_CLSACT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS = 6, 7, 8
TCA_BPF_FLAG_ACT_DIRECT = 1
ETH_P_ALL = 0x0300  # in network order
HANDLE = 1
_TC = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, info


class Direction(IntEnum):
    """Where a program sees packets: as they come in by the interface, or as they go out."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter at an interface, whosever it is: its kind as tc(8) names it, its place, and its name if it has one.

    Of kind `tcx` it is a program without clsact, and `handle` is its id. `ours`: it has this network's mark;
    `of_overlayd`: that of any network of this host.
    """

    index: int
    direction: Direction
    kind: str
    preference: int = 0
    handle: int
    name: str = ""
    ours: bool = False
    of_overlayd: bool = False

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        if self.kind == "tcx":
            return f"program {self.handle}{name}, {self.direction.name.lower()}: see bpftool prog show id {self.handle}"
        return f"{self.kind}{name}, {self.direction.name.lower()}, preference {self.preference}"


def filters(index: int) -> tuple[Filter, ...]:
    """All filters at both ends of an interface; none where the interface is gone. Raises KernelRefused."""
    try:
        return tuple(one for direction in Direction for one in _filters(index, direction))
    except OSError as error:
        # EINVAL: there is neither clsact nor ingress, on some kernels.
        if error.errno in (errno.ENODEV, errno.EINVAL):
            return ()
        raise KernelRefused("filter list", f"of interface {index}", error.errno or errno.EIO) from error


def attach(index: int, direction: Direction, name: str, program_fd: int) -> None:
    """Put a program there, in place of the one of ours that is there; no packet passes without one meanwhile.

    Raises KernelRefused, also where another filter has the place.
    """
    place = direction, marks.ours().route_protocol, HANDLE
    for one in filters(index):
        if (one.direction, one.preference, one.handle) == place and not one.ours:
            raise KernelRefused("filter add", f"{name} at interface {index}, where {one} is", errno.EEXIST)
    try:
        try:
            clsact = _TC.pack(0, index, CLSACT_HANDLE, TC_H_CLSACT, 0) + text(TCA_KIND, "clsact")
            change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, clsact)
        except FileExistsError:
            pass
        options = (
            word(TCA_BPF_FD, program_fd)
            + text(TCA_BPF_NAME, f"{_prefix()}{name}")
            + word(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
        )
        message = _filter(index, direction) + text(TCA_KIND, "bpf") + attribute(TCA_OPTIONS, options)
        change(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_REPLACE, message)
    except OSError as error:
        raise KernelRefused("filter add", f"{name} at interface {index}", error.errno or errno.EIO) from error


def detach(index: int, *, keep: Collection[Direction] = ()) -> bool:
    """Take our programs off an interface, and clsact where nobody else uses it; whether there were any.

    Those of the directions `keep` stay.

    The interface sends nothing for up to 60 ms when clsact comes or goes (dev_deactivate in net/sched/sch_generic.c).
    Raises KernelRefused.
    """
    found = filters(index)
    ours = [one for one in found if one.ours and one.direction not in keep]
    try:
        for one in ours:
            change(RTM_DELTFILTER, 0, _filter(index, one.direction, one.preference, one.handle))
        if ours and len(ours) == len(found):
            change(RTM_DELQDISC, 0, _TC.pack(0, index, CLSACT_HANDLE, TC_H_CLSACT, 0))
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOENT):
            raise KernelRefused("filter delete", f"at interface {index}", error.errno or errno.EIO) from error
    return bool(ours)


def _filters(index: int, direction: Direction) -> Iterator[Filter]:
    for _flags, message in dump(RTM_GETTFILTER, _TC.pack(0, index, 0, direction, 0)):
        _family, at, handle, parent, info = _TC.unpack_from(message)
        found = attributes(message, _TC.size)
        # Of each preference there is a message about the classifier itself, without options.
        if TCA_OPTIONS in found and at == index and parent == direction:
            options = attributes(found[TCA_OPTIONS])
            kind = string(found.get(TCA_KIND)) or ""
            name = (string(options.get(TCA_BPF_NAME)) if kind == "bpf" else None) or ""
            yield Filter(
                index=index,
                direction=direction,
                kind=kind,
                preference=info >> 16,
                handle=handle,
                name=name,
                ours=name.startswith(_prefix()),
                of_overlayd=name.partition(":")[0] in marks.ALIASES,
            )


def _filter(index: int, direction: Direction, preference: int | None = None, handle: int = HANDLE) -> bytes:
    preference = marks.ours().route_protocol if preference is None else preference
    return _TC.pack(0, index, handle, direction, preference << 16 | ETH_P_ALL)


def _prefix() -> str:
    return f"{marks.ours().name}:"
