"""Which texts name a registry."""

from __future__ import annotations

import pytest

from images.engine.errors import BuildError
from images.ship import registry


@pytest.mark.parametrize(
    ("given", "host", "prefix"),
    [
        ("localhost", "localhost", ""),
        ("198.18.0.9:5000", "198.18.0.9:5000", ""),
        ("registry:5000/team", "registry:5000", "/team"),
        ("registry.example.com/a/b-c/", "registry.example.com", "/a/b-c"),
        ("[fd42::1]:5000/x", "[fd42::1]:5000", "/x"),
    ],
)
def test_a_registry_is_a_host_and_a_prefix(given: str, host: str, prefix: str) -> None:
    found = registry.parse(given)
    assert (found.host, found.prefix) == (host, prefix)


@pytest.mark.parametrize(
    "given",
    ["", "team", "http://registry:5000", "registry:5000/Team", "registry:5000//a", "registry:5000/a:tag", "a b:5000"],
)
def test_other_texts_are_refused_with_what_is_allowed(given: str) -> None:
    with pytest.raises(BuildError, match="allowed: HOST:PORT"):
        registry.parse(given)
