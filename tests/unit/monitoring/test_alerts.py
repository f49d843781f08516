"""Each alert rule fires on what it is for, and not beside it: judged by promtool, with made-up series."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from images.engine.place import ROOT

RULES = ROOT / "rpm/monitoring/overlayd-alerts.yml"
NAMES = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), flags=re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series in promtool's notation, a sample a minute; whether the alert fires at `at`, and for which `labels`."""

    alert: str
    series: dict[str, str]
    fires: bool
    labels: dict[str, str] = field(default_factory=lambda: {"instance": "host1:8471"})
    at: str = "40m"


def of(host: int, name: str, *labels: str) -> str:
    """A series of a host by its number."""
    words = ", ".join(('job="overlayd"', f'instance="host{host}:8471"', *labels))
    return f"{name}{{{words}}}"


def one(name: str, *labels: str) -> str:
    """A series of host1."""
    return of(1, name, *labels)


FAILING, REACH = "overlayd_peer_failing_since_timestamp_seconds", "overlayd_peers_reach"
PEER3 = ('subnet="10.5.3.0/24"', 'public_ip="198.18.1.3"')
PEER3_LABELS = {"subnet": "10.5.3.0/24", "public_ip": "198.18.1.3"}
REFRESHED, TTL = "overlayd_lease_last_refresh_timestamp_seconds", "overlayd_lease_ttl_seconds"
NETWORK = ('subnet="10.5.1.0/24"', 'network="10.5.0.0/16"', 'backend="vxlan"')
LEASES = {one("overlayd_lease_held"): "1x90", one("overlayd_lease_info", *NETWORK, 'reserved="false"'): "1x90"}
CASES = [
    Case(alert="OverlaydDown", series={one("up"): "1x20 0x70"}, fires=True),
    Case(alert="OverlaydDown", series={one("up"): "1x20 0x70"}, fires=False, at="24m"),
    Case(alert="OverlaydDown", series={'up{job="node", instance="host1:9100"}': "0x90"}, fires=False),
    Case(
        alert="OverlaydNotReady",
        series={one("overlayd_check_ok", 'check="data-path"'): "0x90"},
        fires=True,
        labels={"check": "data-path"},
    ),
    # A restart and a reboot of a moment.
    Case(alert="OverlaydNotReady", series={one("overlayd_check_ok", 'check="daemon"'): "1x36 0x2 1x60"}, fires=False),
    # These have alerts of their own.
    Case(
        alert="OverlaydNotReady",
        series={one("overlayd_check_ok", f'check="{name}"'): "0x90" for name in ("etcd", "docker")},
        fires=False,
    ),
    # Host 3 is cut off: of its own peers it says nothing, and all others together are one alert.
    Case(
        alert="OverlaydPeerNotReached",
        series={
            **{of(number, FAILING, *PEER3): "1700000000x90" for number in (1, 2)},
            **{of(number, REACH, 'state="reached"'): "1x90" for number in (1, 2)},
            of(3, FAILING, 'subnet="10.5.1.0/24"', 'public_ip="198.18.1.1"'): "1700000000x90",
            of(3, REACH, 'state="reached"'): "0x90",
        },
        fires=True,
        labels=PEER3_LABELS,
    ),
    Case(
        alert="OverlaydPeerNotReached",
        series={one(FAILING, *PEER3): "_x39 1700000000x50", one(REACH, 'state="reached"'): "1x90"},
        fires=False,
    ),
    Case(
        alert="OverlaydPeerNotReached",
        series={one(FAILING, *PEER3): "1700000000x10 stale _x70", one(REACH, 'state="reached"'): "1x90"},
        fires=False,
    ),
    Case(alert="OverlaydEtcdAway", series={one("overlayd_etcd_connected"): "1x20 0x70"}, fires=True),
    Case(alert="OverlaydEtcdAway", series={one("overlayd_etcd_connected"): "1x35 0x50"}, fires=False),
    # promtool's clock begins at 0: an hour's lease that was renewed at minute 10 is 50 minutes old at minute 60.
    Case(alert="OverlaydLeaseNotRenewed", series={one(REFRESHED): "600x90", one(TTL): "3600x90"}, fires=True, at="60m"),
    Case(
        alert="OverlaydLeaseNotRenewed", series={one(REFRESHED): "600x90", one(TTL): "3600x90"}, fires=False, at="50m"
    ),
    Case(
        alert="OverlaydLeaseNotRenewed",
        series={
            one(REFRESHED): "600x90",
            one(TTL): "3600x90",
            one("overlayd_lease_info", *NETWORK, 'reserved="true"'): "1x90",
        },
        fires=False,
        at="60m",
    ),
    Case(alert="OverlaydLeaseLost", series={one("overlayd_leases_lost_total"): "0x20 1x70"}, fires=True),
    Case(alert="OverlaydLeaseLost", series={one("overlayd_leases_lost_total"): "3x90"}, fires=False),
    Case(alert="OverlaydDockerNotOnLease", series={one("overlayd_docker_problems"): "1x90"}, fires=True),
    Case(alert="OverlaydDockerNotOnLease", series={one("overlayd_docker_problems"): "0x38 1x50"}, fires=False),
    # promtool's clock begins at 0: 80 minutes later it ends in a day, or in a month.
    Case(
        alert="OverlaydCertificateEnds",
        series={one("overlayd_certificate_expiry_timestamp_seconds", 'file="etcd-certfile"'): "86400x90"},
        fires=True,
        labels={"file": "etcd-certfile"},
        at="80m",
    ),
    Case(
        alert="OverlaydCertificateEnds",
        series={one("overlayd_certificate_expiry_timestamp_seconds", 'file="etcd-certfile"'): "2592000x90"},
        fires=False,
        at="80m",
    ),
    Case(
        alert="OverlaydStrangersDropped",
        series={one("overlayd_dropped_packets_total", 'chain="delivered"'): "0+100x90"},
        fires=True,
        labels={"chain": "delivered"},
    ),
    Case(
        alert="OverlaydStrangersDropped",
        series={one("overlayd_udp_dropped_packets_total", 'reason="no lease"'): "0+100x90"},
        fires=True,
        labels={"reason": "no lease"},
    ),
    # Now and then one, and a burst that is over.
    Case(
        alert="OverlaydStrangersDropped",
        series={
            one("overlayd_dropped_packets_total", 'chain="raw"'): "0+5x90",
            one("overlayd_dropped_packets_total", 'chain="delivered"'): "0x10 5000x80",
        },
        fires=False,
    ),
    Case(
        alert="OverlaydRepairsRepeated",
        series={one("overlayd_repairs_total", 'part="firewall"'): "0+1x90"},
        fires=True,
        labels={"part": "firewall"},
        at="50m",
    ),
    # firewalld is reloaded by hand, twice.
    Case(
        alert="OverlaydRepairsRepeated",
        series={one("overlayd_repairs_total", 'part="firewall"'): "0x10 3x10 6x70"},
        fires=False,
        at="50m",
    ),
    Case(alert="OverlaydLeasesSkipped", series={one("overlayd_leases_skipped"): "2x90"}, fires=True),
    Case(alert="OverlaydLeasesSkipped", series={one("overlayd_leases_skipped"): "0x20 2x70"}, fires=False),
    Case(
        alert="OverlaydRangeNearlyExhausted",
        series={**LEASES, one("overlayd_peers"): "235x90", one("overlayd_network_subnets"): "254x90"},
        fires=True,
        labels={"network": "10.5.0.0/16"},
    ),
    Case(
        alert="OverlaydRangeNearlyExhausted",
        series={**LEASES, one("overlayd_peers"): "200x90", one("overlayd_network_subnets"): "254x90"},
        fires=False,
    ),
    Case(alert="OverlaydRestartsRepeated", series={one("process_start_time_seconds"): "0+300x90"}, fires=True),
    Case(alert="OverlaydRestartsRepeated", series={one("process_start_time_seconds"): "5x20 1200x70"}, fires=False),
    Case(alert="OverlaydClockOff", series={one("overlayd_time_seconds"): "100+60x90"}, fires=True),
    Case(alert="OverlaydClockOff", series={one("overlayd_time_seconds"): "2+60x90"}, fires=False),
]


def promtool(folder: Path, tests: list[dict[str, object]]) -> subprocess.CompletedProcess[str]:
    """`promtool test rules` with these tests; JSON is YAML."""
    assert shutil.which("promtool"), "these tests need promtool: install the package prometheus"
    path = folder / "test.json"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    return subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False, timeout=60)


def series(case: Case) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in case.series.items()]


def test_each_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert len(NAMES) == len(set(NAMES)) > 10
    for fires in (True, False):
        assert {case.alert for case in CASES if case.fires is fires} == set(NAMES)


def test_each_rule_says_whom_it_wakes_and_what_to_do() -> None:
    rules = RULES.read_text().partition("    rules:\n")[2].split("      - alert: ")[1:]
    for rule in rules:
        assert re.search(r"severity: (critical|warning)\n", rule), rule
        assert "summary:" in rule
        assert re.search(r"`(overlayd|systemctl|journalctl|timedatectl)[^`]*`", rule.partition("description:")[2]), rule


@pytest.mark.slow
def test_prometheus_takes_the_rules_and_the_example() -> None:
    for kind, path in (("rules", RULES), ("config", RULES.with_name("overlayd-scrape.yml"))):
        done = subprocess.run(["promtool", "check", kind, path], capture_output=True, text=True, check=False)
        assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires else 'silent'}")
def test_an_alert_fires_on_what_it_is_for_and_on_nothing_else(tmp_path: Path, case: Case) -> None:
    labels = "".join(f', {name}="{value}"' for name, value in case.labels.items()) if case.fires else ""
    asked = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"{labels}}})'
    everything = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    found = [{"labels": "{}", "value": 1}] if case.fires else []
    queries = [{"expr": expr, "eval_time": case.at, "exp_samples": found} for expr in (asked, everything)]
    test: dict[str, object] = {"interval": "1m", "input_series": series(case), "promql_expr_test": queries}
    done = promtool(tmp_path, [test])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_words_of_each_alert_are_complete(tmp_path: Path) -> None:
    # promtool prints the alerts that it did not expect, with their annotations.
    for case in CASES:
        if case.fires:
            unexpected = {"eval_time": case.at, "alertname": case.alert, "exp_alerts": []}
            done = promtool(
                tmp_path, [{"interval": "1m", "input_series": series(case), "alert_rule_test": [unexpected]}]
            )
            said = done.stdout + done.stderr
            assert (done.returncode, "Annotations" in said) == (1, True), said
            assert not re.search(r"error expanding|no value|%!|\{\{", said), said
            if case.alert == "OverlaydPeerNotReached":
                assert "are not reached from 2 hosts" in said
                assert re.search(r"lost on the way from host1:8471 host2:8471\b", said), said
