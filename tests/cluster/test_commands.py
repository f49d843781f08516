"""Commands in containers, as all tests of clusters run them."""

from __future__ import annotations

import http.client
import time

import pytest

from overlayd.errors import CommandFailed
from tests.testbed.cluster import docker_engine
from tests.testbed.cluster.machine import Machine

LATE_S = 0.3


def test_what_a_quick_command_wrote_is_whole_where_the_client_reads_it_late(
    a: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = http.client.HTTPResponse.begin

    def late(answer: http.client.HTTPResponse) -> None:
        time.sleep(LATE_S)
        begin(answer)

    # As on a machine that is busy: the command has ended when the headers of the answer are read.
    monkeypatch.setattr(http.client.HTTPResponse, "begin", late)
    script = "echo out; echo err >&2; exit 3"
    status, output = docker_engine.outcome(a.container, "sh", "-c", script)
    # Docker keeps the order of each stream only.
    assert (status, sorted(output.split())) == (3, ["err", "out"])
    assert a.run("seq", "100000").splitlines() == [str(number) for number in range(1, 100_001)]
    with pytest.raises(CommandFailed, match="ended with status 3: err"):
        a.shell(script)
