"""A manual page as groff_man(7) wants it. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_WIDTH = 100
_CODE = re.compile(r"`([^`]+)`")
# Printed as they are typed, not as typographers would have them.
_TYPED = {"-": r"\-", "^": r"\(ha", "~": r"\(ti", "'": r"\(aq"}


class Page:
    """One page, written from its top to its end. In all text, `what stands between backticks` is typed, and bold."""

    def __init__(self, name: str, number: int, *, date: str, source: str) -> None:
        """`date` is that of the page as YYYY-MM-DD, `source` the program and its version."""
        self._name = name
        self._lines = [f'.TH {name.upper()} {number} "{date}" "{source}" "overlayd"', ".nh"]

    def named(self, text: str) -> None:
        """The section NAME, which whatis(1) reads: what the page is about, in one line."""
        self._lines += [".SH NAME", rf"{self._name} \- {text}"]

    def section(self, title: str) -> None:
        """A section; the usual ones and their order are in man-pages(7)."""
        self._lines.append(f'.SH "{title}"')

    def subsection(self, title: str) -> None:
        """A part of a section."""
        self._lines.append(f'.SS "{typed(title)}"')

    def line(self, text: str) -> None:
        """A line that stays one, as in a synopsis."""
        self._lines += [prose(text), ".br"]

    def paragraph(self, text: str) -> None:
        """A paragraph, filled."""
        self._lines += [".PP", *_filled(text)]

    def item(self, term: str, *paragraphs: str) -> None:
        """A term and, indented, what there is to say about it."""
        self._lines += [".TP", prose(term)]
        for number, text in enumerate(paragraphs):
            self._lines += [*([".IP"] if number else []), *_filled(text)]

    def example(self, lines: Iterable[str]) -> None:
        """Lines to be typed, as they are."""
        self._lines += [".PP", ".in +4n", ".EX", *(_guarded(typed(line)) for line in lines), ".EE", ".in"]

    @contextmanager
    def indented(self) -> Iterator[None]:
        """What is written inside is part of the item before."""
        self._lines.append(".RS")
        yield
        self._lines.append(".RE")

    def text(self) -> str:
        """The whole page. Raises ValueError for a character that old terminals do not have."""
        whole = "\n".join(self._lines).replace("…", "...") + "\n"
        if not whole.isascii():
            strange = sorted({character for character in whole if not character.isascii()})
            raise ValueError(f"not ASCII in a manual page: {' '.join(strange)}")
        return whole


def typed(text: str) -> str:
    """Text that is typed, character by character."""
    escaped = text.replace("\\", r"\e")
    return "".join(_TYPED.get(character, character) for character in escaped)


def prose(text: str) -> str:
    """One line of text, its backticks made bold."""
    parts = _CODE.split(text)
    done = (
        rf"\fB{typed(part)}\fR" if number % 2 else part.replace("\\", r"\e").replace("--", r"\-\-")
        for number, part in enumerate(parts)
    )
    return _guarded("".join(done))


def _filled(text: str) -> list[str]:
    # What is typed must not be cut at its blanks before it is recognized.
    whole = _CODE.sub(lambda match: match[0].replace(" ", "\0"), " ".join(text.split()))
    lines = textwrap.wrap(whole, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [prose(line.replace("\0", " ")) for line in lines]


def _guarded(line: str) -> str:
    # A line that begins like this would be a request.
    return rf"\&{line}" if line.startswith((".", "'")) else line
