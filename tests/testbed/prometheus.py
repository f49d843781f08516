"""A real Prometheus with the scrape configuration and the alert rules that the RPM ships."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.testbed.polling import eventually

SHIPPED = Path(__file__).parents[2] / "rpm/monitoring"
START_TIMEOUT_S = 60.0


class Prometheus:
    """A server that runs. `enter` calls a function where its address is reached."""

    def __init__(self, address: str, enter: Callable[[Callable[[], Any]], Any]) -> None:
        """Values only; `running` starts it."""
        self._url = f"http://{address}/api/v1"
        self._enter = enter

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        found: list[dict[str, Any]] = self._get(f"query?query={urllib.parse.quote(expr)}")["result"]
        return found

    def alerts(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """The alerts that fire, by their name and the values of their labels that tell them apart."""
        names = ("alertname", "instance", "check", "public_ip")
        return {
            tuple(alert["labels"][name] for name in names if name in alert["labels"]): alert
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def ready(self) -> bool:
        """Whether it answers queries."""
        try:
            self._get("query?query=1")
        except urllib.error.HTTPError as error:
            # It reads its data first.
            error.close()
            return False
        except OSError:
            return False
        return True

    def _get(self, path: str) -> Any:
        def get() -> Any:
            with urllib.request.urlopen(f"{self._url}/{path}", timeout=10) as answer:
                return json.load(answer)

        answer = self._enter(get)
        assert answer["status"] == "success", answer
        return answer["data"]


@contextmanager
def running(
    folder: Path,
    targets: Sequence[str],
    *,
    address: str,
    inside: Sequence[str],
    enter: Callable[[Callable[[], Any]], Any],
) -> Iterator[Prometheus]:
    """A server that scrapes `targets` and evaluates the rules every second, for the length of the block.

    `inside` are words before the command, to run it in a namespace. Alerts fire after a second: their `for:` is
    shortened. All else in the two files is as shipped.
    """
    folder.mkdir()
    rules = (SHIPPED / "overlayd-alerts.yml").read_text()
    (folder / "overlayd-alerts.yml").write_text(re.sub(r"^( +for:) \d+m$", r"\1 1s", rules, flags=re.MULTILINE))
    config = (SHIPPED / "overlayd-scrape.yml").read_text()
    config = re.sub(r"_interval: \d+s", "_interval: 1s", config)
    listed = "".join(f"          - {target}\n" for target in targets)
    config, count = re.subn(r"(?: +- host\d\.example\.com:8471\n)+", listed, config)
    assert count == 1
    (folder / "prometheus.yml").write_text(config)
    argv = [*inside, "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    argv.append(f"--web.listen-address={address}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = Prometheus(address, enter)
    try:
        eventually("Prometheus answers", server.ready, timeout_s=START_TIMEOUT_S)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
