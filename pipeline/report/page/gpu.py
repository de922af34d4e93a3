"""The report's section on engines that ran on a GPU: time by the GPU's own clock, how they were run, energy."""

from collections.abc import Sequence
from typing import Any

from pipeline.console.figures import MISSING, quantity
from pipeline.report.page.render import Section, section

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


def gpu_section(variants: Sequence[dict[str, Any]]) -> Section | None:
    """A row for each engine that ran on a GPU; None where none did."""
    found = {v["name"]: v["on_gpu"] for v in variants if v.get("on_gpu")}
    if not found:
        return None
    notes = [f"{name}, batch {size}: no CUDA graph, because {reason}." for name, on_gpu in found.items()
             for size, reason in on_gpu["graphs"].items() if reason]  # fmt: skip
    sources = sorted({one["source"] for on_gpu in found.values() for one in on_gpu["energy"].values()})
    notes += [f"Energy: {source}." for source in sources]
    copied = all(on_gpu["transfers"] for on_gpu in found.values())
    return section(
        "On the GPU", "gpu.html", heads=_HEADS, words=_WORDS, notes=" ".join(notes),
        rows=[{"name": name, "cells": _cells(on_gpu)} for name, on_gpu in found.items()],
        copies="the copies in it" if copied else "where copies were left out they are 0",
    )  # fmt: skip


def _cells(on_gpu: dict[str, Any]) -> list[str]:
    energy = on_gpu["energy"].get("1", {})
    clocks = energy.get("clocks_mhz") or {}
    times = [*(on_gpu["latency_ms"][key] for key in ("p50", "p90", "p99")), *on_gpu["parts_ms"].values()]
    return [
        *map(quantity, times), _graphs(on_gpu["graphs"]), on_gpu["sync"], quantity(energy.get("mj_per_image")),
        quantity(energy.get("watts")), str(clocks.get("graphics", MISSING)),
    ]  # fmt: skip


def _graphs(graphs: dict[str, str]) -> str:
    """`yes`, `no`, or the batch sizes that ran as one."""
    captured = [size for size, reason in graphs.items() if not reason]
    if len(captured) in (0, len(graphs)):
        return "yes" if captured else "no"
    return f"batch {', '.join(captured)}"
