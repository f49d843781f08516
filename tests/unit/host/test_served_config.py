"""Which network config is served when etcd's changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlayd.errors import NetworkConfigError, UnsupportedError
from overlayd.host import served_config
from overlayd.host.served_config import ServedConfig
from overlayd.leases.network_config import NetworkConfig, parse_network_config
from overlayd.monitoring.status_file import Status, StatusFile
from overlayd.underlay import host_needs

ONE, OTHER = (parse_network_config(f'{{"Network": "10.{number}.0.0/16"}}') for number in (5, 6))


class Registry:
    """etcd's network config; an error where it has none."""

    def __init__(self) -> None:
        self.config: NetworkConfig | None = ONE

    def network_config(self) -> NetworkConfig:
        """What stands in etcd."""
        if self.config is None:
            raise NetworkConfigError("there is no network config")
        return self.config


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def status_file(tmp_path: Path) -> StatusFile:
    return StatusFile(tmp_path, Status(state="ready", pid=1, version="1"))


@pytest.fixture
def served(registry: Registry, status_file: StatusFile, monkeypatch: pytest.MonkeyPatch) -> ServedConfig:
    """One on a host that can have every config."""
    monkeypatch.setattr(served_config, "backend_here", lambda *_: None)
    monkeypatch.setattr(host_needs, "now", lambda _endpoints: ())
    underlay = SimpleNamespace(look=lambda _versions: SimpleNamespace(only=lambda _versions: None))
    settings = SimpleNamespace(etcd_endpoints=())
    return ServedConfig(
        *cast("tuple[Any, Any, Any]", (settings, registry, underlay)),
        status_file,
    )


def test_another_config_is_served_next(served: ServedConfig, registry: Registry, status_file: StatusFile) -> None:
    assert served.choose() == ONE
    served.served = ONE
    assert served.goes_on(ONE)
    registry.config = OTHER
    assert not served.goes_on(ONE)
    assert status_file.status.state == "starting"
    assert served.choose() == OTHER


def test_a_config_that_is_gone_changes_nothing_but_the_status(
    served: ServedConfig, registry: Registry, status_file: StatusFile
) -> None:
    served.served = ONE
    registry.config = None
    assert served.goes_on(ONE)
    assert (served.choose(), status_file.status.problem) == (ONE, "there is no network config")
    registry.config = ONE
    assert served.goes_on(ONE)
    assert status_file.status.problem is None


def test_before_any_was_served_a_missing_config_is_raised(served: ServedConfig, registry: Registry) -> None:
    registry.config = None
    with pytest.raises(NetworkConfigError):
        served.choose()


def test_a_config_that_this_host_cannot_have_does_not_replace_one_that_works(
    served: ServedConfig, registry: Registry, status_file: StatusFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise UnsupportedError("no such devices")

    monkeypatch.setattr(served_config, "backend_here", refuse)
    served.served, registry.config = ONE, OTHER
    assert served.goes_on(ONE)
    assert status_file.status.problem == "no such devices"


def test_a_config_that_was_refused_is_not_tried_again(
    served: ServedConfig, registry: Registry, status_file: StatusFile
) -> None:
    served.served, registry.config = ONE, OTHER
    served.refuse(OTHER, "the port is another program's")
    assert served.choose() == ONE
    assert status_file.status.problem == "the port is another program's; it waits for another config, or a restart"
