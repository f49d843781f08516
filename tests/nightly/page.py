"""One self-contained HTML page of a nightly run, without scripts and external files. Pure: figures in, text out."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from tests.nightly.junit import Summary
from tests.nightly.plot import Bar, bars

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { border: 1px solid #cfd6dd; padding: .25rem .6rem; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.ok { background: #e3f1e5 } .bad { background: #f8dcd8 } .none { background: #eef0f2 }
pre { white-space: pre-wrap; margin: 0; font-size: 12px }
svg { max-width: 100%; height: auto; font-size: 12px }
svg .overlay { fill: #2f6f9f } svg .underlay { fill: #b9c4ce } svg line { stroke: #1c2733 }
"""


def page(*, tests: Summary | None, bench: dict[str, Any] | None, when: str, commit: str) -> str:
    """The page. For figures that are missing (None), it says so in their place."""
    well = tests is not None and not tests.failed and bench is not None
    body = [
        f"<h1>overlayd, {escape(when)}: {'well' if well else 'not well'}</h1>",
        f"<p>Commit {escape(commit)}. {escape(_machine(bench))}</p>",
        "<h2>Tests</h2>",
        _tests(tests) if tests else '<p class="bad">pytest wrote no result.</p>',
    ]
    if tests and tests.figures:
        body += ["<h2>Measured by tests</h2>", _figures(tests)]
    if bench is None:
        body.append('<p class="bad">The bench did not end: no figures.</p>')
    else:
        body += ["<h2>Connectivity</h2>", *map(_matrix, bench["backends"], bench["backends"].values())]
        body += ["<h2>Throughput</h2>", _throughput(bench), "<h2>Start of three hosts</h2>", _start(bench)]
        body += ["<h2>Builds</h2>", _builds(bench["builds"])] if "builds" in bench else []
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>overlayd {escape(when)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{chr(10).join(body)}</body></html>\n"
    )


def _machine(bench: dict[str, Any] | None) -> str:
    if bench is None:
        return ""
    found = bench["machine"]
    return f"{found['cpus']} processors, Linux {found['kernel']}, Docker {found['docker']}, base {found['base']}."


def _row(cells: Iterable[str], tag: str = "td") -> str:
    return "<tr>" + "".join(cell if cell.startswith("<t") else f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _number(text: str) -> str:
    return f'<td class="n">{text}</td>'


def _tests(tests: Summary) -> str:
    rows = [_row(("folder", "passed", "of", "seconds"), "th")]
    for name, (passed, total, seconds) in sorted(tests.groups.items()):
        rows.append(_row((escape(name), _number(str(passed)), _number(str(total)), _number(f"{seconds:.0f}"))))
    summary = (
        f"<p>{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped, in {tests.duration_s:.0f} s.</p>"
        f"<table>{''.join(rows)}</table>"
    )
    if not tests.cases:
        return summary
    rows = [_row(("test", "outcome", "why"), "th")]
    for case in tests.cases:
        kind = "none" if case.outcome == "skipped" else "bad"
        cells = (escape(case.name), f'<td class="{kind}">{case.outcome}</td>', f"<pre>{escape(case.message)}</pre>")
        rows.append(_row(cells))
    return f"{summary}<table>{''.join(rows)}</table>"


def _figures(tests: Summary) -> str:
    rows = [_row(("what", "value", "test"), "th")]
    rows += [_row((escape(what), _number(escape(value)), escape(test))) for test, what, value in tests.figures]
    return f"<table>{''.join(rows)}</table>"


def _matrix(backend: str, found: dict[str, Any]) -> str:
    names = sorted({pair["source"] for pair in found["pairs"]})
    cells = {(pair["source"], pair["target"]): _cell(pair) for pair in found["pairs"]}
    rows = [_row((f"{escape(backend)}: from, to", *map(escape, names)), "th")]
    for source in names:
        row = (cells.get((source, target), '<td class="none"></td>') for target in names)
        rows.append(_row((f"<th>{escape(source)}</th>", *row)))
    return f"<table>{''.join(rows)}</table>"


def _cell(pair: dict[str, Any]) -> str:
    ping = pair["ping"]
    if ping["received"] == 0:
        return '<td class="bad">unreachable</td>'
    kind = "ok" if ping["received"] == ping["sent"] else "bad"
    lost = "" if kind == "ok" else f", {ping['sent'] - ping['received']} of {ping['sent']} lost"
    return f'<td class="{kind} n">{ping["average_ms"]:.2f} ms, {pair["gbit_s"]:.2f} Gb/s{lost}</td>'


def _throughput(bench: dict[str, Any]) -> str:
    groups = []
    rows = [_row(("backend", "part of the underlay", "round trip ms", "underlay ms", "mtu"), "th")]
    for name, found in bench["backends"].items():
        groups.append([_bar(name, "overlay", found["gbit_s"]), _bar("underlay", "underlay", found["underlay_gbit_s"])])
        part = found["part"]
        numbers = (
            f"{part['median']:.2f} ({part['lowest']:.2f} to {part['highest']:.2f})",
            _ms(found["round_trip_ms"]),
            _ms(found["underlay_round_trip_ms"]),
            str(found["mtu_bytes"]),
        )
        rows.append(_row((escape(name), *map(_number, numbers))))
    return f"{bars(groups, 'Gb/s')}<table>{''.join(rows)}</table>"


def _bar(label: str, kind: str, found: dict[str, float]) -> Bar:
    return Bar(label=label, kind=kind, value=found["median"], lowest=found["lowest"], highest=found["highest"])


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _start(bench: dict[str, Any]) -> str:
    start = bench["start"]
    rows = [_row(("what", "seconds"), "th")]
    steps = {f"step: {name}": seconds for name, seconds in start["steps_s"].items()}
    whole = {"hosts from docker run to docker active": start["hosts_to_docker_s"], "the whole": start["whole_s"]}
    for name, seconds in (bench.get("make_up_s", {}) | steps | whole).items():
        rows.append(_row((escape(name), _number(f"{seconds:.1f}"))))
    return f"<table>{''.join(rows)}</table>"


def _builds(builds: dict[str, Any]) -> str:
    rows = [_row(("what", "seconds", "at most"), "th")]
    for what, found in builds.items():
        kind = "ok" if found["s"] <= found["limit_s"] else "bad"
        rows.append(_row((escape(what), f'<td class="{kind} n">{found["s"]:.1f}</td>', _number(str(found["limit_s"])))))
    return f"<table>{''.join(rows)}</table>"
