"""Connections become a matrix of hosts for each backend, Docker and kernel."""

from __future__ import annotations

import itertools

from tests.nightly.matrix import matrix
from tests.testbed.records import Connection


def connection(source: str = "a", target: str = "b", *, sent: int = 3, lost: int = 0, **more: str) -> Connection:
    where = {"backend": "vxlan", "docker": "20.10.24", "kernel": "6.1.0"} | more
    return Connection(source=source, target=target, sent=sent, lost=lost, **where)


def test_records_of_one_pair_add_up_and_directions_are_apart() -> None:
    found = matrix([connection(), connection(lost=1), connection("b", "a", lost=3), connection("b", "a", lost=3)])
    ((kernel, docker, (cell,)),) = found.rows
    assert (kernel, docker, found.backends, found.pairs) == ("6.1.0", "20.10.24", ("vxlan",), 2)
    assert cell is not None
    assert (cell.pairs, cell.whole, cell.well) == (2, 0, False)
    assert [[square.state for square in row] for row in cell.rows] == [["unasked", "some"], ["none", "unasked"]]
    assert [(one.square.source, one.square.lost, one.square.sent) for one in found.lossy] == [("a", 1, 6), ("b", 6, 6)]


def test_rows_are_kernels_and_dockers_in_the_order_of_their_numbers() -> None:
    kernels, dockers = ("6.12.1", "6.1.0", "5.10"), ("28.5", "9.1")
    found = matrix(connection(kernel=kernel, docker=docker) for kernel in kernels for docker in dockers)
    assert [row[:2] for row in found.rows] == list(itertools.product(("5.10", "6.1.0", "6.12.1"), ("9.1", "28.5")))


def test_what_was_not_tried_is_none_and_hosts_are_in_order() -> None:
    found = matrix([connection("host10", "host2"), connection(backend="udp", kernel="5.10")])
    assert [[cell is None for cell in cells] for _, _, cells in found.rows] == [[False, True], [True, False]]
    cell = found.rows[1][2][1]
    assert cell is not None
    assert [row[0].source for row in cell.rows] == ["host2", "host10"]


def test_thirty_hosts_are_counted_without_squares() -> None:
    hosts = [f"host{number}" for number in range(30)]
    found = matrix(connection(*ends) for ends in itertools.permutations(hosts, 2))
    cell = found.rows[0][2][0]
    assert cell is not None
    assert (cell.pairs, cell.well, cell.rows) == (870, True, ())


def test_of_nothing_there_is_nothing() -> None:
    assert matrix([]).rows == ()
