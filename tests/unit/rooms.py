"""Who imports whom in the tree, read from the source: circles among modules, and the order of rooms.

A *room* is a module or a package with all modules below it. Imports count wherever they stand: at the top of a file, in
a function, below `if TYPE_CHECKING`, and by name with `import_module`, as far as its argument can be read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Edges = Mapping[str, frozenset[str]]


def imports_between(*packages: Path) -> dict[str, frozenset[str]]:
    """For each module of some packages, by its dotted name, the modules of these packages that it imports.

    `packages` are folders; the dotted names begin with the folder's own name. The `__init__.py` of a package
    has the package's name, and is imported only by who uses a name that it defines.
    """
    files = {
        _dotted(path.relative_to(package.parent)): path
        for package in packages
        for path in sorted(package.rglob("*.py"))
    }
    return {
        name: frozenset(found for found in _imported(name, path, files.keys()) if found != name)
        for name, path in files.items()
    }


def circles(edges: Edges) -> list[list[str]]:
    """The groups of modules that import each other, directly or by way of others; each sorted, none for no circle.

    Tarjan's algorithm (Depth-first search and linear graph algorithms, 1972): strongly connected components.
    """
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in sorted(edges.get(name, ())):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in edges.get(name, ()):
                found.append(sorted(group))

    for name in sorted(edges):
        if name not in number:
            visit(name)
    return sorted(found)


def between_rooms(edges: Edges, rooms: Iterable[str]) -> dict[str, frozenset[str]]:
    """The same edges between rooms: which rooms the modules of each room import from, but for itself.

    A module belongs to the longest name among `rooms` that it begins with. Raises ValueError for one that has no room.
    """
    rooms = tuple(rooms)
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for name, others in edges.items():
        room = room_of(name, rooms)
        found[room] |= {room_of(other, rooms) for other in others} - {room}
    return {room: frozenset(others) for room, others in found.items()}


def room_of(name: str, rooms: Iterable[str]) -> str:
    """The room that a module is in. Raises ValueError."""
    fitting = [room for room in rooms if name == room or name.startswith(f"{room}.")]
    if not fitting:
        raise ValueError(f"{name} is in none of the rooms")
    return max(fitting, key=len)


def upward(edges: Edges, rooms: Iterable[str]) -> list[str]:
    """The imports that break an order of rooms, each of which may import only those before it: `a imports b`."""
    order = list(rooms)
    return sorted(
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in others
        if order.index(room_of(other, order)) > order.index(room_of(name, order))
    )


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(name: str, path: Path, modules: Iterable[str]) -> Iterator[str]:
    known = set(modules)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                # What a package's own file does not hold is a module of the package.
                below = f"{node.module}.{alias.name}"
                found = below if below in known else node.module
                if found in known:
                    yield found
        elif isinstance(node, ast.Call) and _called(node) == "import_module" and node.args:
            wanted = re.compile(_pattern(node.args[0], name))
            yield from (module for module in known if wanted.fullmatch(module))


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _pattern(argument: ast.expr, name: str) -> str:
    """The names that an argument of `import_module` may stand for, as a regular expression."""
    if isinstance(argument, ast.Constant):
        return re.escape(str(argument.value))
    if isinstance(argument, ast.JoinedStr):
        return "".join(_pattern(part, name) for part in argument.values)
    if isinstance(argument, ast.FormattedValue) and ast.unparse(argument.value) == "__name__":
        return re.escape(name)
    return r"\w+" if isinstance(argument, ast.FormattedValue) else r"[\w.]+"
