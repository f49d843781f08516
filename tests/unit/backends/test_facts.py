"""Every backend says everything that others have to know of it, and what it says is so."""

from __future__ import annotations

import pkgutil
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from overlayd import backends
from overlayd.backends.backend import Backend
from overlayd.backends.facts import BackendFacts
from overlayd.errors import NetworkConfigError
from overlayd.kernel import features, interfaces
from overlayd.lib import marks
from rpm.docs import network_config
from tests.unit.backends.test_backends import DUAL_ENVIRONMENT, ENVIRONMENT, UNDERLAY
from tests.unit.rpm.test_network_files import patterns

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(
    module.name
    for module in pkgutil.iter_modules(backends.__path__)
    if "\nBACKEND" in (ROOT / f"daemon/overlayd/backends/{module.name}.py").read_text()
)
MEMBERS = sorted(name for name in {*vars(Backend), *Backend.__annotations__} if not name.startswith("_"))


def backend_of(module: str) -> Any:
    """The class that a module offers."""
    return import_module(f"overlayd.backends.{module}").BACKEND


def made(module: str) -> Any:
    """The backend of a module on a host, in both families where it carries them."""
    found = backend_of(module)
    return found.from_config({}, DUAL_ENVIRONMENT if found.facts.ipv6 else ENVIRONMENT)


@pytest.mark.parametrize("module", MODULES)
def test_a_backend_is_found_by_the_name_of_its_module_and_has_everything(module: str) -> None:
    found = backend_of(module)
    lacking = [name for name in MEMBERS if not hasattr(made(module), name)]
    assert not lacking, f"backend {module} lacks {', '.join(lacking)} (backends/backend.py)"
    assert isinstance(found.facts, BackendFacts)
    assert found.facts.name == module.replace("_", "-")
    assert found.facts.name in backends.names()
    assert backends.load(found.facts.name) is found
    assert found.facts.published_as in backends.names()


def test_no_fact_can_be_left_out() -> None:
    with pytest.raises(TypeError) as caught:
        BackendFacts()  # type: ignore[call-arg]
    assert all(f"'{field.name}'" in str(caught.value) for field in fields(BackendFacts))


@pytest.mark.parametrize("module", MODULES)
def test_the_overhead_is_what_the_mtu_of_containers_leaves(module: str) -> None:
    backend = made(module)
    overhead = backend.facts.overhead_bytes
    left = UNDERLAY.mtu_bytes - backend.mtu_bytes
    assert left == (0 if overhead is None else max(overhead[4], overhead[6] if backend.facts.ipv6 else 0)) or (
        # It leaves room for an underlay with IPv6, whichever there is.
        overhead is not None and left == max(overhead.values())
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_carrier_is_what_the_backend_listens_to(module: str) -> None:
    backend = made(module)
    carrier = backend.facts.carrier
    told = {(listening.protocol, listening.port) for listening in backend.listens}
    assert (carrier is not None) == bool(told)
    if carrier is not None:
        assert (carrier.protocol, backend.facts.default_port) in told
    if carrier is not None and carrier.port_key is not None:
        assert backend.facts.port({carrier.port_key.upper(): 4321}) == 4321
        assert backend.facts.port({carrier.port_key: "x"}) == backend.facts.default_port


@pytest.mark.parametrize("number", [0, 1, 9])
@pytest.mark.parametrize("module", MODULES)
def test_its_devices_have_names_that_are_known_and_left_alone_by_others(module: str, number: int) -> None:
    marks.use(number)
    try:
        own = set(made(module).devices) - {UNDERLAY.ifname}
    finally:
        marks.use(0)
    assert bool(own) == (backend_of(module).facts.device_kind is not None)
    for name in own:
        assert marks.of(number).names(name), f"{name} is no device of network {number} (lib/marks.py)"
        for where, globs in patterns().items():
            assert any(fnmatchcase(name, glob) for glob in globs), f"rpm/units: {where} does not match {name}"


@pytest.mark.parametrize("module", MODULES)
def test_the_kernel_room_knows_the_kind_of_its_device(module: str) -> None:
    kind = backend_of(module).facts.device_kind
    if kind is not None:
        assert kind in {*features._DEVICES, "tun"}, f"kernel/features.py cannot try to make a {kind} device"
        assert kind in interfaces._DEVICES_OF_OVERLAYS, f"kernel/interfaces.py takes a {kind} device for an underlay"


@pytest.mark.parametrize("module", MODULES)
def test_every_key_takes_its_default_and_refuses_what_is_outside_its_limits(module: str) -> None:
    found = backend_of(module)
    assert len({key.name.lower() for key in found.facts.keys}) == len(found.facts.keys)
    for key in found.facts.keys:
        assert key.help.endswith("."), key.name
        if key.default is not None:
            found.from_config({key.name: key.default}, ENVIRONMENT)
        if key.highest is not None:
            with pytest.raises(NetworkConfigError, match=key.name):
                found.from_config({key.name: key.highest + 1}, ENVIRONMENT)
        for value in (object(), []):
            with pytest.raises(NetworkConfigError, match=key.name):
                found.from_config({key.name: value or "no " + key.name if key.words else value}, ENVIRONMENT)


def test_a_port_of_0_is_the_default_one_and_those_of_services_are_refused() -> None:
    (key,) = (key for key in backends.load("udp").facts.keys if key.name == "Port")
    udp: Any = backends.load("udp")
    assert [listening.port for listening in udp.from_config({"port": 0}, ENVIRONMENT).listens] == [key.default]
    with pytest.raises(NetworkConfigError) as caught:
        udp.from_config({"Port": 53}, ENVIRONMENT)
    assert f"{key.lowest} to {key.highest}" in str(caught.value)


@pytest.mark.parametrize("module", MODULES)
def test_whether_it_carries_ipv6_is_what_it_says(module: str) -> None:
    if not backend_of(module).facts.ipv6:
        with pytest.raises(NetworkConfigError, match="IPv4 only"):
            backend_of(module).from_config({}, DUAL_ENVIRONMENT)


@pytest.mark.parametrize("module", MODULES)
def test_it_is_in_the_documentation(module: str) -> None:
    facts = backend_of(module).facts
    assert f"\n| `{facts.name}` " in (ROOT / "README.md").read_text(), "README.md, Backends"
    (told,) = (keys for name, _text, keys in network_config.backend_pages() if name == facts.name)
    assert tuple(told) == facts.key_names
    service = ElementTree.parse(ROOT / "rpm/firewalld/services/overlayd.xml")
    ports = {port.get("port") for port in service.iter("port")}
    if facts.default_port is not None:
        assert str(facts.default_port) in ports, "rpm/firewalld/services/overlayd.xml"


@pytest.mark.parametrize(
    "name", ["facts", "peers", "__init__", "host_gw", "../x", "overlayd.cli", "", "x" * 200, "gre"]
)
def test_what_is_no_backend_has_no_facts(name: str) -> None:
    assert backends.facts_of(name) is None
