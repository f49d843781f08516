"""What anybody with access to etcd may write: all kinds of JSON, damaged JSON, and bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import strategies as st

# Values that are difficult for parsers, as text of a document.
ODD = (
    *("null", "true", "false", "0", "-0", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1.5", "1.0"),
    *("9" * 30, "9" * 5000, "-" + "9" * 400, '""', '"\\ud800"', '"\\u0000"', '"\\u001b[31m"', '"\\n"', '"%s%n{}"'),
    *("[]", "{}", "[[]]", '{"":{}}', '"' + "x" * 10_000 + '"'),
)


def values() -> st.SearchStrategy[str]:
    """The text of any JSON value."""
    scalar = st.sampled_from(ODD) | st.integers().map(str) | st.text(max_size=8).map(json.dumps)
    return st.recursive(
        scalar,
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda found: f"[{','.join(found)}]")
            | st.lists(st.tuples(st.text(max_size=4).map(json.dumps), inner), max_size=3).map(joined)
        ),
        max_leaves=6,
    )


def nested() -> st.SearchStrategy[str]:
    """Values nested deeper than most parsers follow, or just as deep as Python's does."""
    depth = st.integers(0, 40).map(lambda number: 960 + number) | st.sampled_from([100, 500, 900, 2000, 100_000])
    whole = st.builds(lambda number: "[" * number + "]" * number, depth)
    return whole | st.builds(lambda number: '{"a":' * number + "1" + "}" * number, depth)


def joined(members: Sequence[tuple[str, str]]) -> str:
    """The text of an object with its members in order; names may repeat."""
    return "{" + ",".join(f"{key}:{value}" for key, value in members) + "}"


def documents(keys: Sequence[str], good: st.SearchStrategy[str], *, least: int = 0) -> st.SearchStrategy[bytes]:
    """Objects with these keys in upper or lower case, some twice, whose values are from `good` or any JSON."""
    name = st.sampled_from(keys)
    key = (name | name.map(str.lower) | name.map(str.upper) | st.sampled_from(["", "X", "\u212a"])).map(json.dumps)
    member = st.tuples(key, good | values() | nested())
    return st.lists(member, min_size=least, max_size=8).map(lambda members: encoded(joined(members)))


def encoded(text: str) -> bytes:
    """The text as bytes; surrogates are allowed."""
    return text.encode("utf-8", "surrogatepass")


def raw() -> st.SearchStrategy[bytes]:
    """Bytes, which are rarely JSON."""
    return (
        st.binary(max_size=60)
        | values().map(encoded)
        | nested().map(encoded)
        | values().map(lambda text: text.encode("utf-16", "surrogatepass"))
        | values().map(lambda text: b"\xef\xbb\xbf" + encoded(text))
        | st.just(b'"\xed\xa0\x80"')
    )


def damaged(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The same documents, with a piece cut out or bytes inserted."""
    return st.builds(
        lambda data, at, cut, piece: data[: at % (len(data) + 1)] + piece + data[at % (len(data) + 1) + cut :],
        whole,
        st.integers(0, 4000),
        st.integers(0, 5),
        st.binary(max_size=4),
    )
