"""Ratios are found wherever they stand in the bench's document."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nightly.ratios import Ratio, ratios
from tests.unit.nightly import made

SPREAD = {"median": 0.5, "lowest": 0.4, "highest": 0.6, "count": 3}
OF_SPREAD = Ratio(median=0.5, lowest=0.4, highest=0.6)


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"backends": {"vxlan": {"part": SPREAD}}}, {"vxlan": OF_SPREAD}),
        ({"vxlan": {"tcp": {"gbit_s": SPREAD, "part": SPREAD}}}, {"vxlan · tcp": OF_SPREAD}),
        ({"vxlan": {"part": {"tcp 1": SPREAD, "udp": 0.5}}}, {"vxlan · tcp 1": OF_SPREAD, "vxlan · udp": None}),
        (
            {"vxlan": {"tcp_1_part": SPREAD, "ratios": {"a": {"b": SPREAD}}}},
            {"vxlan · tcp_1": None, "vxlan · a · b": None},
        ),
        (
            {"places": {"lab": {"subjects": {"a": {"figures": {"tcp_gbit_s": {"part": SPREAD}}}}}}},
            {"lab · a · tcp_gbit_s": OF_SPREAD},
        ),
        # Without the keys that gather, these would be one.
        ({"as": {"x": {"part": 0.5}}, "bs": {"x": {"part": 0.6}}}, {"as · x": None, "bs · x": None}),
        ({"parts_s": {"build": 3.0}, "compartment": 0.5, "part": None, "ratio": "0.5"}, {}),
        ({"ratio": float("nan"), "part": True}, {}),
        ({"pairs": [{"ratio": 0.4}, {"ratio": 0.5}, {"ratio": 0.6}]}, {"pairs": OF_SPREAD}),
        ([], {}),
        (None, {}),
    ],
)
def test_ratios_have_the_names_of_the_keys_that_lead_to_them(document: Any, found: dict[str, Ratio | None]) -> None:
    got = ratios(document)
    assert got.keys() == found.keys()
    assert {name: one for name, one in got.items() if found[name]} == {name: one for name, one in found.items() if one}


def test_the_bench_has_one_for_each_backend_and_flow() -> None:
    names = ratios(made.bench())
    assert "udp · tcp_4" in names
    assert len(names) == 12
