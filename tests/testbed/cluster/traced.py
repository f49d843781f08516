"""`python -m tests.testbed.cluster.traced FILE task …`: runs a task, and writes into FILE which files each target used.

A target is built in a thread of its name. Written down are the files of every function that this thread calls, and
every file of the checkout that it opens, except below build/. It is a process of its own, started in the checkout.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

from invoke.main import program

ROOT = Path.cwd()
_BUILD = f"{ROOT / 'build'}/"
_used: defaultdict[str, set[str]] = defaultdict(set)


def _note(file: str) -> None:
    if file.startswith(f"{ROOT}/") and not file.startswith(_BUILD):
        _used[threading.current_thread().name].add(str(Path(file).relative_to(ROOT)))


def _called(frame: FrameType, event: str, _argument: Any) -> None:
    # Not what a module does when it is imported: that is the same for all targets, and values are counted as such.
    if event == "call" and frame.f_code.co_name != "<module>":
        _note(frame.f_code.co_filename)


def _opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str) and not arguments[0].endswith((".py", ".pyc")):
        _note(arguments[0])


def main(to: Path, words: list[str]) -> None:
    """Run the task; Invoke ends this process with it."""
    threading.setprofile(_called)
    sys.addaudithook(_opened)
    try:
        program.run(["invoke", *words])
    finally:
        threading.setprofile(None)
        to.write_text(json.dumps({name: sorted(files) for name, files in _used.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
