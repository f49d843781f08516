"""Errors of a build, named by their cause.

BuildError             one message for the user, and an optional hint: the next thing to do
├─ BadGraph            a target needs one that does not exist, or targets need each other in a ring
├─ CommandFailed       a child process failed: the message holds a command to paste
├─ StepFailed          a target could not be built: the message names its log and the command that repeats it
├─ BaseUnreachable     the repositories of a base do not answer
├─ Unfit               nothing can be built on this machine, by this user, or in this place (images.engine.preflight)
├─ NoDocker            no dockerd answers, and none can be started (images.engine.dockerd)
└─ Cancelled           the build was stopped
"""

from __future__ import annotations


class BuildError(Exception):
    """A failure that the user is told about in one message.

    `message` says what failed and on which object; `hint` says what to do next. The daemon's OverlaydError has the same
    shape and is shown in the same way (pipeline.reporting). It is not the base of this class: all code that a target
    runs is an input of it, and a change in the daemon's errors is no reason to build all images anew.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class BadGraph(BuildError):
    """A target needs one that does not exist, or targets need each other in a ring."""


class BuildCommandFailed(BuildError):
    """A child process ended with a status other than 0."""


class StepFailed(BuildError):
    """A target could not be built."""


class BaseUnreachable(BuildError):
    """The repositories of a base do not answer."""


class Cancelled(BuildError):
    """The build was stopped before this step was done."""
