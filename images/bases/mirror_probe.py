"""Probes mirrors: whether each answers in bounded time, and with the kind of file that was asked for."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPResponse

from images.engine.errors import BuildError

TIMEOUT_S = 20.0
_HEAD_BYTES = 1024
# By a file's name: bytes that it has at or near its beginning, and what it is.
_KINDS = {
    "repomd.xml": (b"<repomd", "the metadata of an RPM repository"),
    "InRelease": (b"-----BEGIN PGP SIGNED MESSAGE-----", "the signed index of a Debian archive"),
}


def problem(url: str, timeout_s: float) -> str | None:
    """What is wrong with a URL, naming its host; None when it leads to a file of the kind that its name says.

    A captive portal, or any web page in place of repository metadata, is a problem although it answers 200.
    """
    try:
        with _open(url, timeout_s) as answer:
            head = answer.read(_HEAD_BYTES)
            came_from = answer.geturl() or url
    except (OSError, ValueError, HTTPException) as error:
        return reason(url, error)
    wanted = _KINDS.get(url.rpartition("/")[2])
    if wanted is None or wanted[0] in head:
        return None
    sent = f", which redirects to {came_from}," if came_from != url else ""
    return f"{host(url)} answers to {url}{sent} with {_described(head)}, not with {wanted[1]}"


def read(url: str, timeout_s: float, *, limit: int = 1 << 20) -> bytes:
    """A small file, in at most twice `timeout_s`. Raises BuildError, naming the URL."""
    deadline = time.monotonic() + timeout_s
    content = b""
    try:
        with _open(url, timeout_s) as answer:
            while chunk := answer.read(1 << 12):
                content += chunk
                if len(content) > limit:
                    raise BuildError(f"{url} is longer than {limit} bytes, and is not what was expected")
                if time.monotonic() > deadline:
                    raise TimeoutError
    except (OSError, ValueError, HTTPException) as error:
        raise BuildError(f"{url} cannot be read: {reason(url, error)}") from error
    return content


def reason(url: str, error: Exception) -> str:
    """Why a URL could not be read, naming its host."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # the error holds the connection
        return f"{host(url)} answers {error.code} to {url}"
    why = getattr(error, "reason", error)
    if url.startswith("file:"):
        return f"{urllib.parse.urlsplit(url).path} is not on this machine"
    return f"{host(url)} does not answer ({'timed out' if isinstance(why, TimeoutError) else why})"


def host(url: str) -> str:
    """The host of a URL with its port; the URL itself where it has none."""
    return urllib.parse.urlsplit(url).netloc or url


def _open(url: str, timeout_s: float) -> HTTPResponse:
    # For a file: URL it is of another class, which has the same methods.
    answer: HTTPResponse = urllib.request.urlopen(url, timeout=timeout_s)
    return answer


def _described(head: bytes) -> str:
    """What the mirror sent instead, in words."""
    if not head:
        return "an empty file"
    title = re.search(rb"<title[^>]*>\s*([^<]{1,80})", head, re.IGNORECASE)
    if b"<html" in head.lower() or b"<!doctype html" in head.lower():
        return f"a web page ({title[1].decode(errors='replace').strip()!r})" if title else "a web page"
    return f"something else ({head[:40]!r})"
