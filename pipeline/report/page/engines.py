"""The table of engines, failures kept; sorted by the page's script when a heading is pressed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.console.figures import MISSING, megabytes, number, quantity
from pipeline.report.page.render import Section, section
from pipeline.report.values.format import batch_sizes, drop, headed, latency, rate
from pipeline.tasks.words import Words


@dataclass(frozen=True)
class EngineRow:
    """A variant of a report; `under` is what stands below its name, `chosen` whether its report recommends it."""

    variant: dict[str, Any]
    under: str
    chosen: bool


@dataclass(frozen=True)
class _Column:
    """A heading, and each row's text and the number it is sorted by (None: not measured)."""

    heading: str
    texts: list[str]
    values: list[float | None]

    @property
    def unbroken(self) -> str:
        """The heading with signs that no line breaks at."""
        return self.heading.replace("Top-", "Top‑").replace(" %]", "\u00a0%]")

    def kind(self, index: int) -> str:
        """The class of a row's cell: nothing was measured, or how wide it is in the layout for phones."""
        text = self.texts[index]
        return "none" if text == MISSING else "wide" if len(self.heading) + len(text) > 24 else "short"


def engine_rows(report: dict[str, Any]) -> list[EngineRow]:
    """The rows of one report."""
    chosen = (report["recommended"] or {}).get("name")
    return [EngineRow(v, f"{v['backend']} · {v['precision']}", v["name"] == chosen) for v in report["variants"]]


def engines_section(
    rows: Sequence[EngineRow], reference: str, words: Words, front_of: str = "of its run"
) -> Section:  # fmt: skip
    """The table, one `tbody` per engine, and what its signs mean; `reference` names what Δ is against, `front_of` whose front
    the sign is of."""
    columns = _columns([row.variant for row in rows], words)
    return section(
        "Engines", "engines.html", rows=rows, columns=columns, reference=reference, score=words.score_name, ranks=_RANKS,
        marks=_MARKS, front_of=front_of,
    )  # fmt: skip


_RANKS = {"pass": 0, "fail": 1, "error": 2, "unavailable": 3}
_MARKS = {"pass": "✓ pass", "fail": "✗ fail", "error": "✗ error", "unavailable": "unavailable"}


def _columns(variants: list[dict[str, Any]], words: Words) -> list[_Column]:
    """The measured columns; memory, energy and layers only where some variant has them."""
    columns = [
        *(
            _Column(f"{headed(name)} %", [number(v[key]) for v in variants], [v[key] for v in variants])
            for key, name in ((words.score, words.score_name), (words.second, words.second_name))
        ),
        _Column(
            f"Δ {words.score_name} pp [95 %]", [drop(v, words) for v in variants], [v[words.delta] for v in variants]
        ),
        _Column("Agreement %", [number(v["agreement"]) for v in variants], [v["agreement"] for v in variants]),
    ]
    columns += [
        _Column(f"{p} ms", [latency(v, p) for v in variants], [(v["latency_ms"] or {}).get(p) for v in variants])
        for p in ("p50", "p90", "p99")
    ]
    columns += [
        _Column(
            f"Img/s b{size}", [rate(v, size) for v in variants], [(v["images_per_s"] or {}).get(size) for v in variants]
        )
        for size in batch_sizes({"variants": variants})
    ]
    columns.append(
        _Column("Size MB", [megabytes(v["size_bytes"]) for v in variants], [v["size_bytes"] for v in variants])
    )
    extra = [
        _Column("Memory MB", [megabytes(v["peak_memory_bytes"]) for v in variants], [v["peak_memory_bytes"] for v in variants]),
        _Column("Energy mJ", [quantity(v["energy_mj"]) for v in variants], [v["energy_mj"] for v in variants]),
        _Column(
            "Layers 8/16/32 bit", [layer_counts(v["layers"]) for v in variants],
            [v["layers"]["int8"] + v["layers"].get("fp8", 0) if v["layers"] else None for v in variants],
        ),
    ]  # fmt: skip
    return columns + [column for column in extra if set(column.texts) != {MISSING}]


def layer_counts(layers: dict[str, int] | None) -> str:
    """How many layers compute in 8, 16 and 32 bits, `22/10/14`."""
    if not layers:
        return MISSING
    return f"{layers['int8'] + layers.get('fp8', 0)}/{layers['fp16'] + layers.get('bf16', 0)}/{layers['fp32']}"
