"""The target rpm.bpf: the daemon's BPF programs, compiled for the kernel. The RPM has them beside the module that loads
them; a daemon that runs from a checkout takes them out of the build folder (daemon/overlayd/fastpath/programs.py).
"""

from __future__ import annotations

from pathlib import Path

from images.bases.base import Base
from images.bases.product import image_target
from images.engine.graph import Target
from rpm import container, source

NAME = "rpm.bpf"
OBJECT = Path("rpm/bpf/fastpath.bpf.o")
_SOURCE = source.BPF / "fastpath.bpf.c"
_MADE = f"/{OBJECT.name}"
_WITH_DWARF = "/tmp/with-dwarf.o"
# Debian has <asm/types.h> in this folder of the architecture, which clang leaves out for another one. EL has no such
# folder.
_MULTIARCH = "/usr/include/x86_64-linux-gnu"
# Those of Linux 4.14, whichever are newest to a clang. With those of v3, clang 14 and 16 (not 19) add other registers
# to addresses of packets, which a kernel admits only with CAP_PERFMON.
_INSTRUCTIONS = "-mcpu=v2"


def target(base: Base) -> Target:
    """The target. The same source gives the same bytes on one base; clang is another one on each."""
    return container.target(
        name=NAME,
        base=base,
        image="builder",
        code=Path(__file__),
        script=script(),
        mounts={},
        fetch=_MADE,
        output=OBJECT,
        files=[_SOURCE],
        needs=(image_target("builder"),),
    )


def script() -> str:
    """The shell script that compiles, and leaves out DWARF, half of the object. BTF stays: libbpf makes maps by it.

    It names the source without its folder, so that no path is in the object.
    """
    return (
        f"cd {container.CHECKOUT}/{_SOURCE.parent} && "
        f'clang -O2 -g -Wall -target bpf {_INSTRUCTIONS} -I{_MULTIARCH} -ffile-prefix-map="$PWD=." '
        f"-c {_SOURCE.name} -o {_WITH_DWARF} && "
        f"bpftool gen object {_MADE} {_WITH_DWARF}"
    )
