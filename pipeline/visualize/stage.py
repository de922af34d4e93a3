"""The visualize stage: figure 2 of the T2T-ViT paper (arXiv 2101.11986) for this run, feature maps of FP32 beside an engine's.

It reads the ONNX graphs, so it works for any network. Statistics are of calibration images; the picture shows one
evaluation image.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from calib.calibration import load_calibration_set
from calib.errors import InputError
from calib.images import ImageSplit
from calib.precision.channels import (
    DEAD_SHARE,
    EXPLODING_TIMES,
    SETTER_SHARE,
    Array,
    ChannelMeasure,
    ChannelMeter,
    Layout,
    channel_maps,
    choose_channels,
    evenly_spaced,
    find_layout,
)
from calib.preprocess import Image, Preprocess, load_batch
from export.engines import onnxruntime_backend
from export.engines.engine import build_engine, load_engine
from export.engines.spec import EngineSpec, graph_of
from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.graph.taps import Tap, TokenAttention, find_blocks, find_token_attention, write_tapped
from export.onnx_export import INPUT, read_metadata
from export.runner import Runner, Unavailable
from pipeline.artifact import Artifact
from pipeline.console.figures import one_line
from pipeline.data.batches import evaluation_split
from pipeline.recipe import Recipe, keys_of
from pipeline.visualize.picture import Picture, draw_attention, draw_features
from pipeline.visualize.summary import coarsest, describe_block, summarise_block

BATCH = 8  # images at a time; limits memory, because the outputs of all blocks for a batch are held at once

Tensors = dict[str, Array]  # by the tap's name


@dataclass(frozen=True)
class TappedRunner:
    """A runner of a tapped graph. `order` are the graph's outputs in order, `names` the output of each tap."""

    runner: Runner
    order: tuple[str, ...]
    names: dict[str, str]

    def infer(self, images: Image) -> Tensors:
        """Every tap's tensor (B, …) of `images` (B, H, W, 3), float32."""
        outputs = self.runner.infer({INPUT: images})
        if set(outputs) != set(self.order):  # OpenVINO removes casts to float32, which leaves two names for one tensor
            outputs = dict(zip(self.order, outputs.values(), strict=True))
        return {tap: outputs[name] for tap, name in self.names.items()}


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `features.png`, `channels.json` and, for networks with visual tokens, `attention.png` into `folder`."""
    part, source = recipe.visualize, inputs["quantize"].path("fp32.onnx")
    precision, threads = recipe.visualized_precision(), recipe.benchmark.threads
    graph = inputs["quantize"].path(f"{graph_of(part.backend, precision)}.onnx")
    proto = onnx.load(source)
    spec, classes = read_metadata(proto)
    split = evaluation_split(recipe, tuple(classes))
    picked = _load_picked(split, part.image, spec)
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec)
    images = calibration.take(evenly_spaced(range(len(calibration)), part.images))
    found, skipped = find_blocks(proto)
    taps, attention = evenly_spaced(found, part.blocks), find_token_attention(proto)
    del proto  # it is as large as the network, and not needed while engines are built and run
    with ExitStack() as stack:
        scratch = folder / "engine"
        scratch.mkdir()
        stack.callback(shutil.rmtree, scratch)
        reference = _open_reference(source, taps, attention, scratch, threads, stack)
        engine, reason = _try_engine(recipe, graph, taps, scratch, spec, classes, stack)
        compared = [engine]
        if engine and part.backend != "onnxruntime":  # to tell a wrong engine from a graph that lost accuracy
            compared.append(_open_reference(graph, taps, [], scratch, threads, stack))
        measures = _measure(taps, reference, compared, images)
        ours, theirs = reference.infer(picked), engine.infer(picked) if engine else {}
    chosen = {tap.name: choose_channels(measures[tap.name][0], part.channels) for tap in taps}
    summary = {
        "schema": 1, "run": folder.parent.name, "model": recipe.model.label,
        "engine": f"{part.backend}-{precision}", "reason": reason, "images": len(images),
        "image": _describe_image(split, part.image),
        "thresholds": {"dead_share": DEAD_SHARE, "exploding_times": EXPLODING_TIMES, "setter_share": SETTER_SHARE},
        "blocks": [summarise_block(tap, chosen[tap.name], *measures[tap.name]) for tap in taps],
        "not_shown": [tap.name for tap in found if tap not in taps], "skipped": skipped,
        "attention": [{"name": one.name, "tokens": one.tokens, "grid": list(one.grid)} for one in attention],
    }  # fmt: skip
    (folder / "channels.json").write_text(json.dumps(summary, allow_nan=False), encoding="utf-8")
    if taps:
        pictures = [_picture(tap, chosen[tap.name], ours, theirs) for tap in taps]
        (folder / "features.png").write_bytes(draw_features(summary, pictures, picked[0]))
    if attention:
        maps = [_attention_maps(one, ours) for one in attention]
        (folder / "attention.png").write_bytes(draw_attention(summary, maps, picked[0]))
    _say(summary, folder)
    return {"engine": summary["engine"], "reason": reason, "blocks": [tap.name for tap in taps]}


def narrow(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce `build` in a recipe's `parts` to the targets of TensorRT-RTX, or drop it where `visualize` uses another backend."""
    kept = {name: part for name, part in parts.items() if name != "build"}
    if parts["visualize"]["backend"] != "tensorrt_rtx":
        return kept
    built = [part for part in parts.get("build", ()) if part["backend"] == "tensorrt_rtx"]
    return kept | {"build": [keys_of(part, ("backend", "targets")) for part in built]}


def _load_picked(split: ImageSplit, index: int, spec: Preprocess) -> Image:
    """The picked evaluation image, (1, H, W, 3)."""
    if index >= len(split):
        raise InputError(
            "visualize.image is past the last evaluation image", got=index, allowed=f"0 to {len(split) - 1}",
            next_step="change visualize.image in the recipe",
        )  # fmt: skip
    return load_batch([split.paths[index]], spec)


def _describe_image(split: ImageSplit, index: int) -> dict[str, Any]:
    """`class` is None of an image with a mask, which has no class of its own."""
    label = split.labels[index]
    return {
        "index": index,
        "path": split.names[index],
        "class": split.classes[label] if label >= 0 else None,
    }


def _open_reference(
    source: Path, taps: list[Tap], attention: list[TokenAttention], scratch: Path, threads: int, stack: ExitStack
) -> TappedRunner:
    """A graph, tapped, on ONNX Runtime."""
    path = scratch / f"reference-{source.name}"
    names = write_tapped(source, path, [*taps, *(maps.tap for maps in attention)])
    return _tapped(stack.enter_context(onnxruntime_backend.load(path, threads)), path, names)


def _try_engine(
    recipe: Recipe, graph: Path, taps: list[Tap], scratch: Path, spec: Preprocess, classes: list[str],
    stack: ExitStack,
) -> tuple[TappedRunner | None, str]:  # fmt: skip
    """The engine to show beside FP32, or why there is none: then FP32 alone still shows dead and exploding channels."""
    name = f"{recipe.visualize.backend}-{recipe.visualized_precision()}"
    try:
        return _open_engine(recipe, graph, taps, scratch, spec, classes, stack), ""
    except (Unavailable, RuntimeError, InputError) as error:
        reason = one_line(str(error))
        print(f"           {name} does not run here, so FP32 is shown alone: {reason}")
        return None, reason


def _open_engine(
    recipe: Recipe, graph: Path, taps: list[Tap], scratch: Path, spec: Preprocess, classes: list[str], stack: ExitStack
) -> TappedRunner:
    """Build and load the recipe's engine of the tapped `graph`. Unavailable or another error where it does not run here."""
    backend, path = recipe.visualize.backend, scratch / "tapped.onnx"
    names = write_tapped(graph, path, taps)
    targets: list[str | None] = [None]
    if backend == "tensorrt_rtx":
        tensorrt_rtx_backend.check_available_to_run()  # first, because building works on any machine and takes long
        targets = [target for part in recipe.build for target in part.targets]
    problem = Unavailable(f"build names no target for {backend}")
    for target in targets:  # one of them may be this machine's GPU
        engine = EngineSpec(backend, recipe.visualized_precision(), target, (1, BATCH, BATCH))
        build_engine(engine, path, scratch / engine.name, spec, classes)
        try:
            _, runner = load_engine(scratch / engine.name, recipe.benchmark.threads)
        except Unavailable as reason:
            problem = reason
            continue
        return _tapped(stack.enter_context(runner), path, names)
    raise problem


def _tapped(runner: Runner, path: Path, names: dict[str, str]) -> TappedRunner:
    order = tuple(value.name for value in onnx.load(path).graph.output)
    return TappedRunner(runner, order, names)


def _measure(
    taps: list[Tap], reference: TappedRunner, compared: Sequence[TappedRunner | None], images: Image
) -> dict[str, list[ChannelMeasure]]:
    """Measure every tap's channels over `images`, batch by batch, against each of `compared`."""
    meters = {tap.name: [ChannelMeter(_layout(tap)) for _ in compared] for tap in taps}
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        ours = reference.infer(batch)
        for index, runner in enumerate(compared):
            theirs = runner.infer(batch) if runner else {}
            for name, row in meters.items():
                row[index].add(ours[name], theirs.get(name))
    return {name: [meter.measure() for meter in row] for name, row in meters.items()}


def _layout(tap: Tap) -> Layout:
    layout = find_layout(tap.shape, tap.aspect)
    assert layout is not None, "find_blocks gives only tensors with a layout"
    return layout


def _picture(tap: Tap, channels: list[int], reference: Tensors, engine: Tensors) -> Picture:
    """The chosen channels' maps of the picked image, from FP32 and, where it has this tensor, from the engine."""
    layout = _layout(tap)
    ours = channel_maps(reference[tap.name], layout)[channels]
    theirs = channel_maps(engine[tap.name], layout)[channels] if tap.name in engine else None
    return Picture(ours, theirs)


def _attention_maps(maps: TokenAttention, tensors: Tensors) -> Array:
    """One tokenizer's maps of the picked image, (tokens, rows, columns)."""
    values = tensors[maps.tap.name][0]  # HW L or L HW
    by_token = values if maps.pixel_axis == 2 else values.T  # L HW
    return by_token.reshape(maps.tokens, *maps.grid)  # L rows columns


def _say(summary: dict[str, Any], folder: Path) -> None:
    """Print the blocks with the coarsest scales, and the next command."""
    if not summary["blocks"]:
        print("           no block of this network has feature maps as output: nothing to show")
        return
    for block in coarsest(summary, 3):
        print(f"           {describe_block(block)}")
    final = folder.with_name(folder.name.removeprefix(".").removesuffix(".partial"))
    print(f"           see {final / 'features.png'}; next: t2t-edge report --run {summary['run']}, same --recipe")
