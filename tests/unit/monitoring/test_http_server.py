"""The server on the loopback: what it answers, to whom, and that nobody can keep others out."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlayd.errors import ConfigError
from overlayd.monitoring.endpoints import Response
from overlayd.monitoring.http import daemon_endpoints, monitoring_port
from overlayd.monitoring.http_server import MOST_CLIENTS, PortTaken, Server
from overlayd.monitoring.liveness import Liveness
from overlayd.monitoring.status_file import Status, StatusFile
from tests.testbed.polling import eventually

WELL = Response(code=200, content_type="text/plain", text="it is well\n")


def broken() -> Response:
    raise RuntimeError("a bug")


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server on a port of the kernel's choice."""
    made = Server(request.param, 0)
    sick = Response(code=503, content_type="x/y", text="no")
    made.start({"/well": lambda: WELL, "/sick": lambda: sick, "/bug": broken})
    try:
        yield made
    finally:
        made.stop()


def address(server: Server) -> tuple[str, int]:
    host, port = server.socket.getsockname()[:2]
    return host, port


def ask(server: Server, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address(server), timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def is_cut_off(client: socket.socket) -> bool:
    """Whether the server ended a connection; a reset instead of an end when it had not read everything."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_endpoints_by_path_and_nothing_else(server: Server) -> None:
    assert ask(server, "/well") == (200, "it is well\n")
    assert ask(server, "/well?verbose=1") == (200, "it is well\n")
    assert ask(server, "/sick") == (503, "no")
    for path in ("/", "/other", "/well/", "/../etc/passwd"):
        assert ask(server, path)[0] == 404


def test_head_is_get_without_the_body_and_other_methods_are_refused(server: Server) -> None:
    connection = http.client.HTTPConnection(*address(server), timeout=5)
    with contextlib.closing(connection):
        connection.request("HEAD", "/well")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "11", b"")
        assert "Python" not in answer.headers["Server"]
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, "/well", method)[0] == 405


def test_clients_that_say_nothing_keep_nobody_out_and_are_bounded(server: Server) -> None:
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(3 * MOST_CLIENTS):
            one = stack.enter_context(socket.create_connection(address(server), timeout=5))
            one.sendall(b"GET /well HT")
            silent.append(one)
            if len(silent) % MOST_CLIENTS == 0:
                assert ask(server, "/well")[0] == 200
        # The oldest was cut off.
        assert is_cut_off(silent[0])
        eventually("no more threads than places", lambda: threading.active_count() - before <= MOST_CLIENTS)
    eventually("all threads end", lambda: threading.active_count() <= before)


def test_a_client_that_goes_away_or_talks_nonsense_does_no_harm(server: Server) -> None:
    for said in (
        b"",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n",
        b"GET /well HTTP/9.9\r\n\r\n",
        b"x" * 70000,
    ):
        with socket.create_connection(address(server), timeout=5) as client, contextlib.suppress(OSError):
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            client.recv(100)
    assert ask(server, "/well")[0] == 200


def test_a_bug_in_an_endpoint_ends_its_request_only(server: Server) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(server, "/bug")
    assert ask(server, "/well")[0] == 200


def test_stopped_it_lets_go_of_the_port_and_of_everybody(server: Server) -> None:
    where = address(server)
    with socket.create_connection(where, timeout=5) as silent:
        silent.sendall(b"GET ")
        # Clients are taken in their order: the silent one has its thread when a later one was answered.
        assert ask(server, "/well")[0] == 200
        server.stop()
        assert is_cut_off(silent)
    again = Server(*where)
    again.stop()


def test_a_port_that_is_taken_and_an_address_that_is_not_ours_say_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match="Address already in use") as taken:
            Server("127.0.0.1", port)
        assert f"ss -tlpn 'sport = :{port}'" in str(taken.value)
    with pytest.raises(ConfigError, match=r"on 198\.18\.255\.1:9.*\n.*an address of this host"):
        Server("198.18.255.1", 9)


def test_no_port_means_no_server() -> None:
    with monitoring_port("0.0.0.0", 0) as nothing:
        assert (nothing.where, nothing.retry()) == (None, None)


def test_a_port_that_somebody_has_is_taken_when_it_is_free() -> None:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = other.getsockname()[1]
        port_taken = stack.enter_context(monitoring_port("127.0.0.1", port))
        port_taken.start({"/well": lambda: WELL})
        assert "Address already in use" in (port_taken.retry() or "")
        assert [port_taken.where] == [None]
        other.close()
        assert port_taken.retry() is None
        assert port_taken.where == f"127.0.0.1:{port}"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/well")
            assert connection.getresponse().status == 200


def test_a_stuck_loop_is_503_with_words_while_the_server_answers(tmp_path: Path) -> None:
    now = [1000.0]
    liveness = Liveness(slack_s=30.0, clock=lambda: now[0])
    status_file = StatusFile(tmp_path, Status(state="ready", pid=1, version="1"))
    server = Server("127.0.0.1", 0)
    server.start(daemon_endpoints(status_file, liveness))
    try:
        liveness.beat("lease keeper", within_s=3600)
        liveness.beat("main loop", within_s=60)
        now[0] += 90
        assert ask(server, "/healthz")[0] == 200
        now[0] += 1
        code, text = ask(server, "/healthz")
        assert code == 503
        assert "main loop is stuck: not heard of for 91 s" in text
        assert '"lease keeper": "ok"' in text
        assert "main loop is stuck" in ask(server, "/readyz")[1]
        liveness.beat("main loop", within_s=60)
        assert ask(server, "/healthz")[0] == 200
    finally:
        server.stop()
