"""Modules of the kernel, which loads one by itself when a device or a rule needs it, unless that is switched off."""

from __future__ import annotations

from pathlib import Path

from overlayd.errors import UnsupportedError

# sysctl kernel.modules_disabled: once it is 1, it stays 1 until the next boot (Documentation/admin-guide/sysctl).
_DISABLED = Path("/proc/sys/kernel/modules_disabled")
OFF = "kernel.modules_disabled is 1, so no module can be loaded before the next boot"


def loading_is_off() -> bool:
    """Whether no module can be loaded on this host any more."""
    try:
        return _DISABLED.read_text().strip() == "1"
    except OSError:
        return False


def lacking(what: str, *modules: str, instead: str = "") -> UnsupportedError:
    """The error for a kernel that lacks what these modules would bring; `instead` is what else a person can do."""
    names = " ".join(modules)
    if loading_is_off():
        what = f"{what}; {OFF}"
        remedy = f"write the lines {names} into a file in /etc/modules-load.d, which is read first, and reboot"
    else:
        remedy = f"modprobe {'-a ' if len(modules) > 1 else ''}{names}"
    return UnsupportedError(what, hint=f"{remedy}, or {instead}" if instead else remedy)
