"""channels.json: the measurements of every block, and a block in one line of text (docs/visualize.md)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.precision.channels import ChannelMeasure, find_layout
from pipeline.console.figures import MISSING

if TYPE_CHECKING:
    from export.graph.taps import Tap

MARGIN_DB = 6.0  # twice the error: an engine this far below its graph loses more than its precision explains
NAMED = 8  # most channels that a list names; the number of all is stored beside it


def summarise_block(
    tap: "Tap", shown: list[int], measure: ChannelMeasure, graph: ChannelMeasure | None = None
) -> dict[str, Any]:
    """One block of channels.json: `shown` are the channels in the picture, `measure` compares FP32 with the engine.

    `graph` compares FP32 with ONNX Runtime on the engine's graph; None where the engine is ONNX Runtime or did not run.
    """
    layout = find_layout(tap.shape, tap.aspect)
    assert layout is not None, "find_blocks gives only tensors with a layout"
    share = measure.error_share
    worst = [] if share is None else np.argsort(-share, kind="stable")[:NAMED].tolist()
    return {
        "name": tap.name, "node": tap.node, "shape": list(tap.shape), "grid": list(layout.grid),
        "channels": layout.channels, "extra_tokens": layout.extra_tokens,
        "dead": measure.dead, "exploding": measure.exploding, "shown": shown,
        "amax": _plain(measure.amax.max()), "median_amax": _plain(measure.median_amax),
        "levels": _plain(measure.levels), "levels_without": _plain(measure.levels_without),
        "scale_setters": measure.scale_setters[:NAMED], "scale_setters_count": len(measure.scale_setters),
        "snr_db": _plain(measure.snr_db), "relative_error": _plain(measure.relative_error),
        "graph_snr_db": _plain(graph.snr_db if graph else None), "engine_not_finite": measure.engine_not_finite,
        "worst_error": [{"channel": channel, "share": _plain(share[channel])} for channel in worst if share is not None],
        "per_channel": {
            "amax": _plain(measure.amax), "mean_abs": _plain(measure.mean_abs), "zeros": _plain(measure.zeros),
            "error_share": _plain(share),
        },
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """A value for JSON, numbers to six significant digits: arrays become lists, None stays None."""
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return float(f"{float(value):.6g}")


def read_summary(path: Path) -> dict[str, Any]:
    """Read channels.json."""
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def coarsest(summary: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The `count` blocks whose median channel has the fewest INT8 levels, fewest first."""
    blocks = [block for block in summary["blocks"] if block["levels"] is not None]
    return sorted(blocks, key=lambda block: block["levels"])[:count]


def describe_block(block: dict[str, Any]) -> str:
    """One block in a line: INT8 levels of the median channel, the channels that set the scale, and the SNR."""
    levels = f"{block['levels']:.3g} of 127 INT8 levels for the median channel"
    graph = graph_text(block)
    return f"{block['name']}: {levels}; {setters_text(block)}; SNR {snr_text(block)}" + (f" ({graph})" if graph else "")


def snr_text(block: dict[str, Any]) -> str:
    """`31.2 dB`, `exact`, `NaN or Inf`, or a dash where nothing was compared."""
    if block["engine_not_finite"]:
        return "NaN or Inf"
    if block["relative_error"] == 0:
        return "exact"
    return MISSING if block["snr_db"] is None else f"{block['snr_db']:.1f} dB"


def graph_text(block: dict[str, Any]) -> str:
    """`its graph: 31.2 dB` where the engine's error is more than twice ONNX Runtime's on the same graph; otherwise ""."""
    engine, graph = block["snr_db"], block["graph_snr_db"]
    return f"its graph: {graph:.1f} dB" if None not in (engine, graph) and engine < graph - MARGIN_DB else ""


def setters_text(block: dict[str, Any]) -> str:
    """`channels 3, 7 set the scale (40 levels without)`; or how many channels share it, where many reach half of the largest
    value."""
    setters, count = block["scale_setters"], block["scale_setters_count"]
    if block["levels_without"] is None or count > len(setters):
        return f"{count} of {block['channels']} channels share the scale"
    words = ("channel", "sets") if count == 1 else ("channels", "set")
    return (
        f"{words[0]} {', '.join(map(str, setters))} {words[1]} the scale ({block['levels_without']:.3g} levels without)"
    )
