"""Kinds of options: invoke makes what a user wrote into the kind of the option's default."""

from __future__ import annotations

from invoke.exceptions import ParseError


class Count(int):
    """How often, or how long: a whole number of at least 1. What is none is told; int's own error is a traceback."""

    def __new__(cls, value: object) -> Count:
        """Raises ParseError, which invoke prints."""
        try:
            found = super().__new__(cls, str(value))
        except ValueError:
            found = None
        if found is None or found < 1:
            raise ParseError(f"{str(value)!r} was given where a number is wanted\n  allowed: 1, 2, 3 and so on")
        return found
