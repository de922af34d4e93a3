"""The report as one HTML file: no script, nothing loaded from elsewhere; for screens, phones and paper."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from pipeline.report_format import (
    MISSING,
    batch_sizes,
    class_count,
    drop,
    how_measured,
    latency,
    megabytes,
    number,
    one_line,
    percent,
    quantity,
    rate,
    recommendation,
)

Column = tuple[str, list[str]]  # heading, and the text of each variant's cell


def html_page(
    report: dict[str, Any], reference: dict[str, Any], mode: dict[str, Any], picture: bytes,
    sections: Sequence[str] = (),
) -> str:  # fmt: skip
    """The whole page; every text of the report is escaped, `picture` (PNG) is embedded, `sections` are HTML already."""
    conclusion, command = recommendation(report)
    title = f"{report['run']}: {report['model']} on {report['dataset']['name']}"
    status = "good" if report["recommended"] else "bad"
    image = base64.b64encode(picture).decode("ascii")
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in how_measured(report, reference, mode))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<p class="over">{escape(report["run"])}</p>
<h1>{escape(report["model"])} <span>on {escape(report["dataset"]["name"])}</span></h1>
</header>
<section class="verdict {status}">
<p>{escape(conclusion)}</p>
<p class="next">Next: <code>{escape(one_line(command))}</code></p>
</section>
{_facts(report, reference)}
<h2>Accuracy against latency</h2>
<div class="picture"><img alt="{escape(_picture_text(report))}" src="data:image/png;base64,{image}"></div>
<h2>Engines</h2>
{_engine_table(report)}
<p class="note">Δ: top-1 minus that of {escape(reference["name"])}, percentage points, with the 95 % interval. \
◆: on the Pareto front, nothing here is both faster and more accurate. {MISSING}: not measured.</p>
{"".join(sections)}<h2>How this was measured</h2>
<ul>{sentences}</ul>
<h2>Machine</h2>
{_machine(report)}
<h2>Files</h2>
{_files(report)}
</main>
</body>
</html>
"""


def _facts(report: dict[str, Any], reference: dict[str, Any]) -> str:
    """The few numbers to read first."""
    counts = dict.fromkeys(("pass", "fail", "error", "unavailable"), 0)
    for variant in report["variants"]:
        counts[variant["status"]] += 1
    gate = report["gate"]["min_relative_top1"]
    facts = [
        (reference["name"], f"{number(reference['top1'])} %", f"top-1; top-5 {number(reference['top5'])} %"),
        ("Gate", f"{number(reference['top1'] * gate)} %", f"{percent(gate)} of that top-1"),
        ("Engines", f"{counts['pass']} of {len(report['variants'])} pass", _others(counts)),
        ("Images", f"{report['dataset']['eval_images']:,}", f"{class_count(report)} classes"),
    ]
    items = (
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b> <small>{escape(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def _others(counts: dict[str, int]) -> str:
    """`1 fails, 6 unavailable`."""
    words = {"fail": "failed", "error": "with errors", "unavailable": "unavailable"}
    return ", ".join(f"{counts[status]} {word}" for status, word in words.items() if counts[status]) or "none failed"


def _picture_text(report: dict[str, Any]) -> str:
    """What the picture says, for those who do not see it."""
    front = [v for v in report["variants"] if v["pareto"]]
    if not front:
        return "Accuracy against latency: no engine that passes was measured."
    parts = (f"{v['name']} ({number(v['top1'])} %, {latency(v)} ms)" for v in front)
    return f"Accuracy against latency; on the Pareto front: {', '.join(parts)}."


def _columns(report: dict[str, Any]) -> list[Column]:
    """The measured columns; memory, energy and layers only where some variant has them."""
    variants = report["variants"]
    columns: list[Column] = [
        ("Top-1 %", [number(v["top1"]) for v in variants]),
        ("Top-5 %", [number(v["top5"]) for v in variants]),
        ("Δ top-1 pp [95 %]", [drop(v) for v in variants]),
        ("Agreement %", [number(v["agreement"]) for v in variants]),
    ]
    columns += [(f"{p} ms", [latency(v, p) for v in variants]) for p in ("p50", "p90", "p99")]
    columns += [(f"Img/s b{size}", [rate(v, size) for v in variants]) for size in batch_sizes(report)]
    columns.append(("Size MB", [megabytes(v["size_bytes"]) for v in variants]))
    extra: list[Column] = [
        ("Memory MB", [megabytes(v["peak_memory_bytes"]) for v in variants]),
        ("Energy mJ", [quantity(v["energy_mj"]) for v in variants]),
        ("Layers 8/16/32 bit", [_layers(v["layers"]) for v in variants]),
    ]
    return columns + [column for column in extra if set(column[1]) != {MISSING}]


def _layers(layers: dict[str, int] | None) -> str:
    return f"{layers['int8']}/{layers['fp16']}/{layers['fp32']}" if layers else MISSING


def _engine_table(report: dict[str, Any]) -> str:
    """One `tbody` per engine: its numbers, then its reason over the full width."""
    columns = _columns(report)
    heads = "".join(f"<th scope=col>{escape(heading.replace('Top-', 'Top‑'))}</th>" for heading, _ in columns)
    recommended = (report["recommended"] or {}).get("name")
    bodies = []
    for row, variant in enumerate(report["variants"]):
        cells = "".join(_cell(heading, texts[row]) for heading, texts in columns)
        reason = one_line(variant["reason"])
        extra = f"<tr class=reason><td colspan={len(columns) + 2}>{escape(reason)}</td></tr>" if reason else ""
        chosen = " chosen" if variant["name"] == recommended else ""
        bodies.append(
            f'<tbody class="{variant["status"]}{chosen}"><tr><th scope=row>{escape(variant["name"])}'
            f"<small>{escape(variant['backend'])} · {escape(variant['precision'])}</small></th>"
            f"<td class=status>{_status(variant, bool(chosen))}</td>{cells}</tr>{extra}</tbody>"
        )
    return (
        '<div class="scroll"><table class="engines"><thead><tr><th scope=col>Engine</th><th scope=col>Status</th>'
        f"{heads}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _cell(heading: str, text: str) -> str:
    """A number, with its heading for the narrow layout; marked where nothing was measured."""
    kind = "none" if text == MISSING else "wide" if len(heading) + len(text) > 24 else "short"
    return f'<td data-label="{escape(heading)}" class={kind}>{escape(text)}</td>'


def _status(variant: dict[str, Any], chosen: bool) -> str:
    marks = {"pass": "✓ pass", "fail": "✗ fail", "error": "✗ error", "unavailable": "unavailable"}
    front = ' <span class="front" title="on the Pareto front">◆</span>' if variant["pareto"] else ""
    best = " <span class=best>recommended</span>" if chosen else ""
    return f'<span class="mark">{marks[variant["status"]]}</span>{front}{best}'


def _machine(report: dict[str, Any]) -> str:
    machine = report["machine"]
    rows = [("CPU", machine["cpu"]), ("GPU", machine["gpu"] or "none"), *sorted(machine["versions"].items())]
    return "<dl class=machine>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows) + "</dl>"


def _files(report: dict[str, Any]) -> str:
    """Where each engine is, under the run's folder, and its hash."""
    items = (
        f"<li><b>{escape(v['name'])}</b> <code>{escape(v['artifact'])}</code>"
        f"<br><small>sha256 {escape(v['sha256'] or MISSING)}</small></li>"
        for v in report["variants"]
        if v["artifact"]
    )
    return (
        f"<ul class=files>{''.join(items)}</ul>" if any(v["artifact"] for v in report["variants"]) else "<p>None.</p>"
    )


_STYLE = """
:root { --page: #f6f7f9; --card: #fff; --ink: #16191d; --soft: #5a6472; --line: #dfe3e8; --accent: #0b6b4f;
  --good: #0b6b4f; --good-back: #e3f4ec; --bad: #b3121d; --bad-back: #fdecec; --code: #eceff3; }
@media (prefers-color-scheme: dark) {
  :root { --page: #111417; --card: #1a1f24; --ink: #e8ebee; --soft: #a0aab6; --line: #313941; --accent: #5fd0a5;
    --good: #6bdcb0; --good-back: #12332a; --bad: #ff8f8f; --bad-back: #3a1a1d; --code: #272e35; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 16px; }
h1 span { font-weight: 400; color: var(--soft); }
h2 { font-size: 1.2rem; margin: 32px 0 10px; }
.over { margin: 0; color: var(--soft); font-size: .9rem; }
code { background: var(--code); border-radius: 4px; padding: .1em .35em; font-size: .92em; }
.verdict { border-radius: 10px; padding: 14px 18px; font-size: 1.1rem; border-left: 6px solid; }
.verdict p { margin: 0; font-weight: 600; }
.verdict .next { font-weight: 400; font-size: .95rem; margin-top: 6px; color: var(--ink); }
.good { color: var(--good); background: var(--good-back); }
.bad { color: var(--bad); background: var(--bad-back); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; }
.facts b { font-size: 1.25rem; display: block; }
.facts small, .note, th small, .files small { color: var(--soft); }
.picture { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 8px; overflow-x: auto; }
.picture img { display: block; width: 100%; min-width: 560px; max-width: 900px; height: auto; margin: 0 auto; }
.picture.wide { margin-bottom: 10px; }
.picture.wide img { max-width: 1180px; }
.channels { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
.channels th, .channels td { padding: 6px 7px; text-align: right; white-space: nowrap; }
.channels thead th { color: var(--soft); font-weight: 600; }
.channels tbody tr { border-top: 1px solid var(--line); }
.channels th:first-child, .channels .text, .channels th:nth-child(n+7) { text-align: left; white-space: normal; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.engines { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
.engines th, .engines td { padding: 8px 7px; text-align: right; white-space: nowrap; }
.engines thead th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom;
  overflow-wrap: normal; }
.engines tbody { border-top: 1px solid var(--line); }
.engines tbody th, .engines thead th:first-child, .engines .status, .engines thead th:nth-child(2) { text-align: left; }
.engines tbody th { font-weight: 600; }
.engines th small { display: block; font-weight: 400; }
.engines td.none { color: var(--soft); }
.engines .reason td { text-align: left; white-space: normal; padding: 0 7px 10px; color: var(--soft); }
.engines .fail, .engines .error { background: var(--bad-back); }
.engines .fail .mark, .engines .error .mark { color: var(--bad); font-weight: 700; }
.engines .fail .reason td, .engines .error .reason td { color: var(--bad); }
.engines .unavailable th, .engines .unavailable .mark { color: var(--soft); font-weight: 500; }
.engines .pass .mark { color: var(--good); font-weight: 600; }
.engines .chosen { background: var(--good-back); }
.front { color: var(--soft); }
.best { display: block; font-size: .75rem; font-weight: 600; color: var(--good); }
.note { font-size: .88rem; }
ul { padding-left: 1.2em; }
li { margin: 6px 0; }
.machine { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; }
.machine dt { color: var(--soft); }
.machine dd { margin: 0; }
@media screen and (max-width: 760px) {
  main { padding: 16px 12px 32px; }
  h1 { font-size: 1.5rem; }
  .facts { grid-template-columns: 1fr 1fr; }
  .scroll { background: none; border: 0; overflow: visible; }
  .engines, .engines tbody { display: block; }
  .engines thead { display: none; }
  .engines tbody { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin-bottom: 10px;
    padding: 10px 12px; }
  .engines tr { display: grid; grid-template-columns: 1fr 1fr; gap: 2px 16px; }
  .engines th, .engines td { padding: 0; white-space: normal; }
  .engines tbody th { font-size: 1rem; }
  .engines tbody th, .engines .status { grid-column: 1 / -1; }
  .engines td[data-label] { display: flex; justify-content: space-between; gap: 8px; flex-wrap: wrap; }
  .engines td[data-label]::before { content: attr(data-label); color: var(--soft); }
  .engines td.none { display: none; }
  .engines td.wide { grid-column: 1 / -1; }
  .engines .reason { display: block; }
  .engines .reason td { display: block; padding: 6px 0 0; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --good: #0b6b4f; --good-back: #e3f4ec;
    --bad: #b3121d; --bad-back: #fdecec; --code: #eee; }
  html, body { font-size: 11px; }
  body { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  .scroll, .picture { overflow: visible; }
  .picture img { max-width: 560px; min-width: 0; }
  .picture.wide img { max-width: 100%; max-height: 170mm; width: auto; }
  .engines th, .engines td { padding: 3px 7px; }
  h2 { margin-top: 18px; }
  tbody, .picture, .facts div { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
