"""What sockperf prints and the kernel counts, read as values. Pure: no I/O."""

from __future__ import annotations

import re

from tests.testbed.cluster.figures import NotAFigure

_SENT = re.compile(r"Total of (\d+) messages sent in ([\d.]+) sec")
_MEDIAN = re.compile(r"percentile 50\.000 =\s+([\d.]+)")


def sent_in_s(text: str) -> tuple[int, float]:
    """How many packets `sockperf throughput` sent, and in how many seconds. Raises NotAFigure."""
    found = _SENT.search(text)
    if found is None or not float(found[2]):
        raise NotAFigure(f"sockperf printed no count: {text.strip()[-300:]!r}")
    return int(found[1]), float(found[2])


def round_trip_us(text: str) -> float:
    """The median of `sockperf ping-pong --full-rtt`, in µs. Raises NotAFigure."""
    found = _MEDIAN.search(text)
    if found is None:
        raise NotAFigure(f"sockperf printed no median: {text.strip()[-300:]!r}")
    return float(found[1])


def snmp(text: str, protocol: str, counter: str) -> int:
    """A counter of /proc/net/snmp (proc(5)): a line of names, then a line of values. Raises NotAFigure."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith(f"{protocol}:")]
    if len(lines) != 2 or counter not in lines[0]:
        raise NotAFigure(f"/proc/net/snmp has no {protocol} {counter}")
    return int(lines[1][lines[0].index(counter)])


def busy_ticks(text: str) -> int:
    """Ticks that all processors spent on work, from /proc/stat (proc(5)): not idle, waiting for disks, or stolen."""
    words = text.partition("\n")[0].split()
    if words[:1] != ["cpu"] or len(words) < 8:
        raise NotAFigure("/proc/stat has no line of all processors")
    user, nice, system, _idle, _waiting, irq, softirq = map(int, words[1:8])
    return user + nice + system + irq + softirq


def process_ticks(text: str) -> int:
    """Ticks of user and system time of a process and its threads, from /proc/PID/stat (proc(5))."""
    # The second field is a name in brackets, which may hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 13:
        raise NotAFigure(f"this is no /proc/PID/stat: {text[:100]!r}")
    return int(fields[11]) + int(fields[12])


def memory_bytes(text: str) -> tuple[int, int]:
    """PSS and private memory of a process, from /proc/PID/smaps_rollup. Raises NotAFigure."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    try:
        return int(found["Pss"]) << 10, int(found["Private_Clean"]) + int(found["Private_Dirty"]) << 10
    except KeyError as error:
        raise NotAFigure(f"smaps_rollup has no {error}") from None
