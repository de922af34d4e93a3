"""The report's section on engines that ran on a GPU: time by the GPU's own clock, how they were run, energy."""

from collections.abc import Sequence
from html import escape
from typing import Any

from pipeline.console.figures import MISSING, quantity
from pipeline.report.page.frame import table_head

_HEADS = (
    "Engine",
    "p50",
    "p90",
    "p99",
    "copy in",
    "compute",
    "copy out",
    "CUDA graph",
    "CPU waits",
    "mJ an image",
    "W",
    "MHz",
)

_WORDS = (_HEADS[0], *_HEADS[7:9])


def gpu_section(variants: Sequence[dict[str, Any]]) -> str:
    """HTML of the section; "" where no engine ran on a GPU."""
    rows = [(v["name"], v["on_gpu"]) for v in variants if v.get("on_gpu")]
    if not rows:
        return ""
    body = "".join(_row(name, found) for name, found in rows)
    notes = [f"{name}, batch {size}: no CUDA graph, because {reason}." for name, found in rows
             for size, reason in found["graphs"].items() if reason]  # fmt: skip
    sources = sorted({one["source"] for _, found in rows for one in found["energy"].values()})
    notes += [f"Energy: {source}." for source in sources]
    copies = (
        "the copies in it" if all(found["transfers"] for _, found in rows) else "where copies were left out they are 0"
    )
    return f"""<h2>On the GPU</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Engines on the GPU">
<table class="plain">{table_head(_HEADS, _WORDS)}<tbody>{body}</tbody></table></div>
<p class="note">Milliseconds of one image by the GPU's clock (CUDA events), as trtexec has its latency, {copies}; copy in, \
compute and copy out are medians. The latencies above are the caller's wall clock. {escape(" ".join(notes))}</p>
"""


def _row(name: str, found: dict[str, Any]) -> str:
    energy = found["energy"].get("1", {})
    clocks = energy.get("clocks_mhz") or {}
    times = [*(found["latency_ms"][key] for key in ("p50", "p90", "p99")), *found["parts_ms"].values()]
    cells = [
        *map(quantity, times), _graphs(found["graphs"]), found["sync"],
        _or_missing(energy.get("mj_per_image")), _or_missing(energy.get("watts")), str(clocks.get("graphics", MISSING)),
    ]  # fmt: skip
    body = "".join(
        f"<td{' class=text' if head in _WORDS else ''}>{escape(cell)}</td>"
        for head, cell in zip(_HEADS[1:], cells, strict=True)
    )
    return f"<tr><th scope=row>{escape(name)}</th>{body}</tr>"


def _graphs(graphs: dict[str, str]) -> str:
    """`yes`, `no`, or the batch sizes that ran as one."""
    captured = [size for size, reason in graphs.items() if not reason]
    if len(captured) in (0, len(graphs)):
        return "yes" if captured else "no"
    return f"batch {', '.join(captured)}"


def _or_missing(value: float | None) -> str:
    return MISSING if value is None else quantity(value)
