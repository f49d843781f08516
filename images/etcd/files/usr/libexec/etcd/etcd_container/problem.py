"""What is wrong, and what to do about it; said in two lines."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """`what` names the setting, file or port and what is wrong with it; `remedy` is the next thing to do.

    With `fatal` etcd would end, or hang, or do what nobody wanted. Without, it is worth a warning: etcd starts.
    """

    what: str
    remedy: str
    fatal: bool = True

    def text(self) -> str:
        """Both lines, the first with its weight."""
        return f"{'error' if self.fatal else 'warning'}: {self.what}\n  {self.remedy}"


class Refused(Exception):
    """What a command ends with that goes no further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem
