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


# Lines of skopeo 1.9, shortened; the first digest holds the number of an HTTP status, which means nothing.
@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            "blob sha256:401403507: pinging container registry: dial tcp: connect: connection refused",
            "no registry answers",
        ),
        ("pinging container registry: Get: http: server gave HTTP response to HTTPS client", "speaks plain HTTP"),
        ("Get: x509: certificate signed by unknown authority", "no authority known here has signed"),
        ("checking whether a blob exists: unauthorized: authentication required", "needs another login"),
        ("writing manifest: denied: requested access to the resource is denied", "does not let this login push"),
        ("something new happened", None),
    ],
)
def test_what_a_registry_did_is_known_by_skopeos_last_line(said: str, found: str | None) -> None:
    answer = registry.meaning("r:5000", said)
    assert (answer is None) if found is None else (answer is not None and found in answer[0])
