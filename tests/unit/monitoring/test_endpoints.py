"""From a status to what probes and Prometheus read; the judge of the latter is Prometheus' own parser."""

from __future__ import annotations

import dataclasses
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from overlayd.lib import counters, exposition
from overlayd.lib.exposition import Family
from overlayd.monitoring import endpoints
from overlayd.monitoring.metrics import Process
from overlayd.monitoring.readiness import checks, is_ready
from overlayd.monitoring.state import Peer, Reach, Status

PEER = Peer(subnet="10.5.2.0/24", public_ip="198.18.1.2", backend="vxlan")
WELL = Status(
    state="ready",
    pid=1,
    version="1.2.3",
    started_at_s=1_790_000_000.25,
    network="10.5.0.0/16",
    subnet="10.5.1.0/24",
    backend="vxlan",
    etcd_connected=True,
    etcd_revision=7,
    peers=(PEER,),
)
PROCESS = Process(cpu_s=1.5, resident_bytes=50_000_000, threads=9, python="3.11.7", clock_s=1_790_000_100.5)


def problems(status: Status, *late: str) -> dict[str, str]:
    return {check.name: check.problem for check in checks(status, late=late) if check.problem}


def metrics(status: Status, *late: str) -> dict[str, float]:
    """Every sample of /metrics by its name, labels and all, as Prometheus' parser reads it."""
    response = endpoints.metrics(status, late, PROCESS)
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found[sample.name + "".join(f" {key}={value}" for key, value in sample.labels.items())] = sample.value
    return found


def test_a_host_in_order_is_ready() -> None:
    response = endpoints.readyz(WELL, ())
    assert response.code == 200
    assert json.loads(response.text) == {
        "ready": True,
        "checks": dict.fromkeys(
            ("daemon", "network-config", "etcd", "lease", "data-path", "peers", "docker", "reachability"),
            "ok",
        ),
    }


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({"etcd_connected": False, "etcd_problem": "etcd at X: UNAVAILABLE"}, "etcd", "UNAVAILABLE"),
        ({"lease_problem": "etcd has no such lease any more"}, "lease", "no such lease"),
        ({"subnet": None}, "lease", "no subnet"),
        ({"problems": ("link add overlay.1: refused",)}, "data-path", "overlay.1"),
        ({"docker_problems": ("docker0 has 172.17.0.1/16",)}, "docker", "172.17.0.1/16"),
        ({"problem": "the network config is not JSON"}, "network-config", "not JSON"),
    ],
)
def test_each_thing_that_is_wrong_has_its_check(change: dict[str, object], check: str, words: str) -> None:
    status = dataclasses.replace(WELL, **change)  # type: ignore[arg-type]
    assert problems(status).keys() == {check}
    assert words in problems(status)[check]
    assert not is_ready(status)
    response = endpoints.readyz(status, ())
    assert (response.code, json.loads(response.text)["ready"]) == (503, False)
    assert words in json.loads(response.text)["checks"][check]


def test_a_daemon_that_waits_is_not_ready_whatever_it_knew_before() -> None:
    waiting = dataclasses.replace(WELL, state="waiting", problem="no network config in etcd")
    assert problems(waiting)["daemon"] == "waiting: no network config in etcd"
    assert problems(waiting).keys() == {"daemon", "data-path"}


def test_a_stuck_loop_makes_what_is_known_worthless() -> None:
    assert problems(WELL, "main loop is stuck: not heard of for 40 s").keys() == {"daemon"}


def test_peers_that_cannot_be_programmed_are_named_and_a_crowd_of_them_is_counted() -> None:
    bad = [dataclasses.replace(PEER, subnet=f"10.5.{n}.0/24", problem="its backend is udp") for n in range(9)]
    words = problems(dataclasses.replace(WELL, peers=(PEER, *bad)))["peers"]
    assert words.startswith("9 of 10 not programmed: 10.5.0.0/24 at 198.18.1.2: its backend is udp; ")
    assert words.endswith("; and 6 more")


def test_somebody_elses_garbage_in_etcd_does_not_make_this_host_unready() -> None:
    status = dataclasses.replace(WELL, skipped=(("10.5.9.0-24", "not JSON"),))
    assert is_ready(status)
    assert metrics(status)["overlayd_leases_skipped"] == 1


def test_healthz_is_about_the_loops_only() -> None:
    assert endpoints.healthz({"main loop": None}).code == 200
    stuck = endpoints.healthz({"lease keeper": None, "main loop": "main loop is stuck: not heard of for 40 s"})
    assert stuck.code == 503
    assert json.loads(stuck.text)["checks"] == {
        "lease keeper": "ok",
        "main loop": "main loop is stuck: not heard of for 40 s",
    }


def test_metrics_say_what_the_status_says() -> None:
    found = metrics(WELL)
    assert found["overlayd_ready"] == found["overlayd_etcd_connected"] == found["overlayd_lease_held"] == 1
    assert found["overlayd_etcd_revision"] == 7
    assert (found["overlayd_peers"], found["overlayd_peers_with_problems"]) == (1, 0)
    assert found["process_start_time_seconds"] == 1_790_000_000.25
    assert found["overlayd_lease_info subnet=10.5.1.0/24 network=10.5.0.0/16 backend=vxlan reserved=false"] == 1
    away = metrics(dataclasses.replace(WELL, etcd_connected=False, peers=(dataclasses.replace(PEER, problem="x"),)))
    assert away["overlayd_ready"] == away["overlayd_etcd_connected"] == away["overlayd_check_ok check=etcd"] == 0
    assert away["overlayd_check_ok check=lease"] == away["overlayd_peers_with_problems"] == 1


def test_only_peers_that_fail_have_a_sample_that_says_so() -> None:
    well = Reach(subnet="10.5.2.0/24", public_ip="198.18.1.2", state="reached", reached_at_s=1_790_000_000.0)
    failing = Reach(subnet="10.5.3.0/24", public_ip="198.18.1.3", state="failing", failing_since_s=1_790_000_050.0)
    waits = Reach(subnet="10.5.4.0/24", public_ip="198.18.1.4", state="reached", failing_since_s=1_790_000_090.0)
    found = metrics(dataclasses.replace(WELL, probed_from="10.5.1.2", reach=(well, failing, waits)))
    name = "overlayd_peer_failing_since_timestamp_seconds"
    assert {key: value for key, value in found.items() if key.startswith(name)} == {
        f"{name} subnet=10.5.3.0/24 public_ip=198.18.1.3": 1_790_000_050.0
    }
    assert found["overlayd_time_seconds"] == 1_790_000_100.5


def test_every_metric_has_help_a_type_and_a_name_that_follows_the_conventions() -> None:
    response = endpoints.metrics(WELL, (), PROCESS)
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    raw = [line.split()[3:4] for line in response.text.splitlines() if line.startswith("# TYPE")]
    families = list(text_string_to_metric_families(response.text))
    assert len(raw) == len(families) > 15
    for family in families:
        assert family.documentation.endswith((".", ")")), family.name
        assert family.type in ("counter", "gauge"), family.name
        assert family.name.startswith(("overlayd_", "process_")), family.name
        # The parser takes _total off the name of a counter, and only from there.
        assert all(sample.name == family.name + "_total" for sample in family.samples if family.type == "counter")
        assert not family.name.endswith("_total")


def test_any_text_survives_the_way_through_the_format() -> None:
    nasty = 'a "quoted" back\\slash,\nnew line} ü\\n'
    text = exposition.exposition(
        [Family(name="x", kind="gauge", text=nasty, samples=(({"l": nasty}, 1), ({"l": ""}, 2.5), ({"l": "z"}, 1e18)))]
    )
    (family,) = text_string_to_metric_families(text)
    assert family.documentation == nasty
    assert [(sample.labels["l"], sample.value) for sample in family.samples] == [(nasty, 1), ("", 2.5), ("z", 1e18)]


def test_counters_begin_at_zero_and_gauges_when_they_are_set() -> None:
    plain = counters.counter("overlayd_test_plain_total", "Plain.")
    labelled = counters.counter("overlayd_test_labelled_total", "Labelled.", label="why", known=("this", "that"))
    level = counters.gauge("overlayd_test_level", "Level.")
    assert metrics(WELL)["overlayd_test_plain_total"] == 0
    assert "overlayd_test_level" not in metrics(WELL)
    plain.add()
    labelled.add(2, of="this")
    labelled.add(of="another")
    level.set(-1.5)
    found = metrics(WELL)
    assert (found["overlayd_test_plain_total"], found["overlayd_test_level"]) == (1, -1.5)
    assert [found[f"overlayd_test_labelled_total why={why}"] for why in ("this", "that", "another")] == [2, 0, 1]


def test_nothing_is_counted_under_the_name_of_something_else() -> None:
    counters.counter("overlayd_test_twice_total", "Once.")
    with pytest.raises(ValueError, match="two places"):
        counters.gauge("overlayd_test_twice_total", "Twice.")
