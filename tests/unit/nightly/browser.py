"""A headless Chromium, spoken to by its DevTools protocol over two pipes: it opens no port, and loads nothing itself.

https://chromedevtools.github.io/devtools-protocol/ has the methods; each message is JSON with a NUL behind it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "google-chrome")
_ANSWER_S = 60.0
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    # Whatever the page asked for would fail, and be seen.
    *("--proxy-server=127.0.0.1:9", "--remote-debugging-pipe", "about:blank"),
)

# The protocol's pipes are the descriptors 3 and 4. A shell's redirections know numbers of one digit only.
_AS_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, end in enumerate(ends, 3):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page in a browser. `events` are all that the browser told of by itself, oldest first."""

    def __init__(self, write: int, read: int) -> None:
        """The ends of the pipes; `opened` makes it."""
        self._write, self._read = write, read
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Make a page, and let it tell of requests, errors and the console."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def show(self, path: Path, *, width: int, dark: bool = False, height: int = 900) -> None:
        """Load a file with a window of that width in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._until(lambda: any(one["method"] == "Page.loadEventFired" for one in self.events))

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        done = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(done["data"]))

    def requested(self) -> list[str]:
        """The URLs that the page asked for."""
        return [one["params"]["request"]["url"] for one in self.events if one["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[dict[str, Any]]:
        """What went to the console, and exceptions."""
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [one for one in self.events if one["method"] in told]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result. Fails where it is refused, or has no answer in a minute."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []
        self._until(lambda: bool(answers), answers, number)
        assert "error" not in answers[0], (method, answers[0])
        result: dict[str, Any] = answers[0]["result"]
        return result

    def _until(self, done: Any, answers: list[dict[str, Any]] | None = None, number: int = 0) -> None:
        deadline = time.monotonic() + _ANSWER_S
        while not done():
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser says nothing; last {self.events[-3:]}"
            new = os.read(self._read, 1 << 20)
            assert new, "the browser ended"
            *messages, self._rest = (self._rest + new).split(b"\0")
            for message in map(json.loads, messages):
                if "method" in message:
                    self.events.append(message)
                elif answers is not None and message["id"] == number:
                    answers.append(message)


@contextmanager
def opened() -> Iterator[Browser]:
    """A browser for the length of the block, with a profile of its own; all its processes end with it."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, f"none of {PROGRAMS} is installed; requirements/install-system all installs one"
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="overlayd-browser-", ignore_cleanup_errors=True) as profile:
        numbers = [str(to_read), str(from_write)]
        child = subprocess.Popen(
            [sys.executable, "-c", _AS_3_AND_4, *numbers, program, *_OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, from_write),
            env={**os.environ, "HOME": profile},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            browser = Browser(to_write, from_read)
            browser.attach()
            yield browser
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            os.close(to_write)
            os.close(from_read)
