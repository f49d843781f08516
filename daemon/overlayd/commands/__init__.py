"""What each command does: one module a command, which has a `COMMAND`. Failures are exceptions.

The command line, the manual page and the shells' completion are all made from these declarations. A module is found by
its name, `docker_opts` for `docker-opts`, and only that of the command that is called is imported.
"""

from __future__ import annotations

from importlib import import_module

from overlayd.commands.command import Command


def find(name: str) -> Command | None:
    """The command of that name, None where there is none. Imports its module."""
    if not name.replace("-", "").isalpha():
        return None
    stem = name.replace("-", "_")
    try:
        found: Command | None = getattr(import_module(f"{__name__}.{stem}"), "COMMAND", None)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{stem}":
            raise
        return None
    return found


def every() -> tuple[Command, ...]:
    """All commands, in the order of the help text. Imports the modules of all of them."""
    import pkgutil  # noqa: PLC0415  (for the help text and the manual page only)

    found = (find(module.name.replace("_", "-")) for module in pkgutil.iter_modules(__path__))
    return tuple(sorted((command for command in found if command is not None), key=lambda command: command.place))
