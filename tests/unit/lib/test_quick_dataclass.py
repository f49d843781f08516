"""Our dataclass does what the standard library's does, for each class of the daemon too."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any, ClassVar

import pytest

from images.engine.place import ROOT
from overlayd.leases.subnets import Subnets
from overlayd.lib import quick_dataclass
from rpm import source
from rpm.freeze import freeze

Decorator = Callable[..., Any]
BOTH = pytest.mark.parametrize("dataclass", [quick_dataclass.dataclass, dataclasses.dataclass], ids=["ours", "library"])


def classes(dataclass: Decorator) -> tuple[Any, Any, Any]:
    """A frozen class, one that is derived from it, and one that is not frozen."""

    @dataclass(frozen=True, kw_only=True)
    class Base:
        """A class."""

        kind: ClassVar[str] = "base"
        number: int
        names: tuple[str, ...] = ()
        note: str = field(default="", compare=False, repr=False)
        more: dict[str, int] = field(default_factory=dict, hash=False)

        @property
        def twice(self) -> int:
            """Twice the number."""
            return self.number * 2

    @dataclass(frozen=True, kw_only=True)
    class Derived(Base):
        """A class."""

        kind: ClassVar[str] = "derived"
        size: int = 3

    @dataclass
    class Plain:
        """A class."""

        first: int
        second: list[int] = field(default_factory=list)
        made: int = field(init=False)

        def __post_init__(self) -> None:
            self.made = self.first + 1

    return Base, Derived, Plain


@BOTH
def test_objects_are_made_compared_and_shown(dataclass: Decorator) -> None:
    base, derived, plain = classes(dataclass)
    one = base(number=1, note="a")
    assert (one.number, one.names, one.note, one.more, one.twice, one.kind) == (1, (), "a", {}, 2, "base")
    assert one == base(number=1, note="b")
    assert hash(one) == hash(base(number=1, more={"a": 1}))
    assert one != base(number=1, more={"a": 1})
    assert one != derived(number=1)
    assert one.__eq__(1) is NotImplemented
    assert repr(one).endswith(".Base(number=1, names=(), more={})")
    assert repr(derived(number=1)).endswith(".Derived(number=1, names=(), more={}, size=3)")
    assert base(number=1).more is not base(number=1).more
    assert dataclasses.replace(derived(number=1), size=4) == derived(number=1, size=4)
    assert [one.name for one in dataclasses.fields(derived)] == ["number", "names", "note", "more", "size"]
    assert dataclasses.asdict(one) == {"number": 1, "names": (), "note": "a", "more": {}}
    assert copy.copy(one) == one
    assert (plain(1).made, plain(1, [2]).second, plain(1) == plain(1), plain.__hash__) == (2, [2], True, None)
    assert plain.__match_args__ == ("first", "second")
    match plain(5):
        case plain(first=found):
            assert found == 5


@BOTH
def test_frozen_objects_cannot_be_changed_and_wrong_arguments_are_named(dataclass: Decorator) -> None:
    base, derived, plain = classes(dataclass)
    for one in (base(number=1), derived(number=1)):
        with pytest.raises(FrozenInstanceError, match="cannot assign to field 'number'"):
            one.number = 2
        with pytest.raises(FrozenInstanceError, match="cannot assign to field 'other'"):
            one.other = 2
        with pytest.raises(FrozenInstanceError, match="cannot delete field 'number'"):
            del one.number
    with pytest.raises(TypeError, match=r"__init__\(\) missing 1 required keyword-only argument: 'number'"):
        base()
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'wrong'"):
        base(number=1, wrong=1)
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        base(1)
    changed = plain(1)
    changed.first = 2
    assert changed.first == 2


@pytest.mark.parametrize("upper", [quick_dataclass.dataclass, dataclasses.dataclass], ids=["ours", "library"])
@pytest.mark.parametrize("slots", [False, True], ids=["", "slots"])
@BOTH
def test_classes_of_both_kinds_are_derived_from_each_other(dataclass: Decorator, upper: Decorator, slots: bool) -> None:
    @upper(frozen=True, kw_only=True)
    class Upper:
        """A class."""

        one: int

    options = {"frozen": True, "kw_only": True}
    lower: Any = dataclass(**options, slots=slots)(derived("Lower", Upper, two=2))
    lowest: Any = upper(**options)(derived("Lowest", lower, three=3))
    made = lowest(one=1)
    assert (made.one, made.two, made.three) == (1, 2, 3)
    assert made == lowest(one=1)
    assert hash(made) == hash(lowest(one=1))
    with pytest.raises(FrozenInstanceError):
        made.one = 2
    with pytest.raises(FrozenInstanceError):
        lower(one=1).two = 3
    with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):
        dataclass(derived("Wrong", Upper, four=4))


def derived(name: str, base: type, **fields: int) -> type:
    """A class with these fields, before it is made a dataclass."""
    return type(name, (base,), {"__annotations__": dict.fromkeys(fields, int), "__doc__": "A class.", **fields})


def own_classes() -> list[type]:
    """The dataclasses of all modules of the daemon."""
    found: dict[type, None] = {}
    for name in freeze.modules(ROOT / source.DAEMON):
        for one in vars(importlib.import_module(name)).values():
            if isinstance(one, type) and dataclasses.is_dataclass(one) and one.__module__.startswith("overlayd."):
                found[one] = None
    return list(found)


@pytest.mark.parametrize("cls", own_classes(), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_a_class_of_the_daemon_takes_and_has_what_it_would_with_the_library(cls: type) -> None:
    fields = dataclasses.fields(cls)
    library = dataclasses.make_dataclass(
        cls.__name__,
        [
            (one.name, one.type, field(default=one.default, default_factory=one.default_factory, init=one.init))
            if one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
            else (one.name, one.type, field(init=one.init))
            for one in fields
        ],
        kw_only=True,
    )
    needed = {one.name: object() for one in fields if one.name in required(library)}
    if "__post_init__" in vars(cls):
        pytest.skip("it computes with what it is given")
    made, like = cls(**needed), library(**needed)
    for one in fields:
        mine, theirs = getattr(made, one.name, None), getattr(like, one.name, None)
        # What is made for each object anew need not be equal.
        is_made = one.default_factory is not dataclasses.MISSING
        assert type(mine) is type(theirs) if is_made else mine == theirs
    if needed:
        with pytest.raises(TypeError, match="missing"):
            cls()


def required(cls: type) -> list[str]:
    """The arguments without a default."""
    given = inspect.signature(cls).parameters.values()
    return [one.name for one in given if one.default is inspect.Parameter.empty]


def test_nothing_of_the_daemon_is_compiled_when_it_is_imported() -> None:
    # A class whose object nobody makes costs nothing but its fields.
    code = (
        "import builtins, sys\n"
        "compiled, real = [], builtins.exec\n"
        "def exec(text, *scopes):\n"
        "    compiled.append(text) if isinstance(text, str) else None\n"
        "    return real(text, *scopes)\n"
        "builtins.exec = exec\n"
        "import dataclasses\n"
        "import overlayd.cli, overlayd.daemon\n"
        "print(len(compiled), sum(dataclasses.is_dataclass(one) for name, module in list(sys.modules.items())\n"
        "    if name.startswith('overlayd.') for one in vars(module).values() if isinstance(one, type)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / source.DAEMON)},
        capture_output=True,
        text=True,
        check=True,
    )
    compiled, made = map(int, done.stdout.split())
    assert made > 100
    assert compiled < made / 2


def test_objects_are_pickled() -> None:
    assert pickle.loads(pickle.dumps(Subnets())) == Subnets()


def test_every_module_of_the_daemon_has_ours() -> None:
    daemon = ROOT / source.DAEMON
    theirs = [
        str(path.relative_to(daemon))
        for path in sorted(daemon.rglob("*.py"))
        if re.search(r"^from dataclasses import .*\bdataclass\b", path.read_text(), re.MULTILINE)
    ]
    assert theirs == [], "import dataclass from overlayd.lib.quick_dataclass"
