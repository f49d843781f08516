"""dataclasses.dataclass, with a fifth of its cost at the start.

The standard library writes the text of six methods for each class and compiles them when the class is made: of 139
classes that takes a third of the time until the daemon is ready. Here the methods are closures, and `__init__` is
compiled when the first object is made. To type checkers it is the standard library's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["dataclass"]

T = TypeVar("T")

_POST_INIT = "__post_init__"


def _quick(
    cls: type[T] | None = None, /, *, frozen: bool = False, kw_only: bool = False, slots: bool = False
) -> type[T] | Callable[[type[T]], type[T]]:
    """As dataclasses.dataclass with these arguments; with `slots` it is that itself."""

    def made(cls: type[T]) -> type[T]:
        if slots:
            return dataclasses.dataclass(frozen=frozen, kw_only=kw_only, slots=True)(cls)
        found: type[T] = _made(cls, frozen=frozen, kw_only=kw_only)
        return found

    return made if cls is None else made(cls)


# mypy knows the standard library's by its name.
if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _quick


def _is_made(cls: Any) -> bool:
    return "__dataclass_params__" in vars(cls)


def _made(cls: Any, *, frozen: bool, kw_only: bool) -> Any:
    own = vars(cls)
    has_hash = own.get("__hash__") is not None
    # Fields and their defaults, __match_args__. Nothing is compiled for this, but where a base is frozen, as then this
    # has to be so.
    below_frozen = frozen and any(one.__dataclass_params__.frozen for one in cls.__mro__[1:] if _is_made(one))
    made = dataclasses.dataclass(init=False, repr=False, eq=False, frozen=below_frozen, kw_only=kw_only)(cls)
    made.__dataclass_params__.frozen = frozen
    fields = dataclasses.fields(made)
    methods = {"__init__": _init(made, fields, frozen=frozen), "__repr__": _repr(fields), "__eq__": _eq(fields)}
    if frozen:
        methods |= {"__setattr__": _setattr(made, fields), "__delattr__": _delattr(made, fields)}
    for name, method in methods.items():
        if name not in own:
            method.__qualname__ = f"{made.__qualname__}.{name}"
            setattr(made, name, method)
    if not has_hash:
        made.__hash__ = _hash(fields) if frozen else None  # type: ignore[assignment]
    return made


Fields = tuple[dataclasses.Field[Any], ...]


def _init(cls: type[Any], fields: Fields, *, frozen: bool) -> Callable[..., None]:
    """A method that puts the compiled one in its place when it is called first."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        compiled = _compiled_init(cls, fields, frozen=frozen)
        # By two threads at once it is done twice, and both have the same.
        cls.__init__ = compiled
        compiled(self, *args, **kwargs)

    return __init__


def _compiled_init(cls: type[Any], fields: Fields, *, frozen: bool) -> Callable[..., None]:
    names: dict[str, Any] = {"_missing": dataclasses.MISSING, "_set": object.__setattr__}
    positional, keywords, body = list[str](), list[str](), list[str]()
    for field in fields:
        name, value = field.name, field.name
        if field.default_factory is not dataclasses.MISSING:
            names[f"_make_{name}"] = field.default_factory
            value = f"_make_{name}() if {name} is _missing else {name}" if field.init else f"_make_{name}()"
            default = "=_missing"
        elif field.default is not dataclasses.MISSING:
            names[f"_default_{name}"] = field.default
            default = f"=_default_{name}"
        else:
            default = ""
        if field.init:
            (keywords if field.kw_only else positional).append(f"{name}{default}")
        if field.init or field.default_factory is not dataclasses.MISSING:
            body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, _POST_INIT):
        body.append(f"self.{_POST_INIT}()")
    parameters = ", ".join(["self", *positional, *(["*", *keywords] if keywords else [])])
    lines = "".join(f"  {line}\n" for line in body or ["pass"])
    exec(f"def __init__({parameters}):\n{lines}", names)
    compiled: Callable[..., None] = names["__init__"]
    compiled.__qualname__ = f"{cls.__qualname__}.__init__"
    return compiled


def _repr(fields: Fields) -> Callable[[Any], str]:
    names = [field.name for field in fields if field.repr]

    def __repr__(self: Any) -> str:  # noqa: N807
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({values})"

    return __repr__


def _values(names: list[str]) -> Callable[[Any], object]:
    """A function that gives the values of these fields of an object: a tuple, or of one field the value."""
    return attrgetter(*names) if names else lambda _object: ()


def _eq(fields: Fields) -> Callable[[Any, object], bool]:
    values = _values([field.name for field in fields if field.compare])

    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    return __eq__


def _hash(fields: Fields) -> Callable[[Any], int]:
    values = _values([field.name for field in fields if (field.compare if field.hash is None else field.hash)])

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return __hash__


def _setattr(cls: type[Any], fields: Fields) -> Callable[[Any, str, object], None]:
    names = frozenset(field.name for field in fields)

    def __setattr__(self: Any, name: str, value: object) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    return __setattr__


def _delattr(cls: type[Any], fields: Fields) -> Callable[[Any, str], None]:
    names = frozenset(field.name for field in fields)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    return __delattr__
