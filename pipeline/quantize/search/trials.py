"""Try one mix of INT8 and FP32 layers: build its engine, and measure its accuracy on the search split and its latency."""

import shutil
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.calibration import spread
from calib.errors import InputError
from calib.precision.policy import Decision, Rules, complete
from calib.precision.search_limits import Drop, Limits, hopeless, refusal
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.engines.engine import build_engine, load_engine
from export.engines.sidecar import Sidecar
from export.engines.spec import EngineSpec
from export.engines.tensorrt.options import BuildOptions
from export.graph.layers import count_precisions
from export.quantize.int8 import Quantized, write_quantized
from export.runner import Runner
from pipeline.console.figures import one_line
from pipeline.data.batches import fitting
from pipeline.measure.benchmark_stage import measure
from pipeline.measure.evaluate_stage import infer_in_chunks
from pipeline.quantize.search.images import SearchSplit
from pipeline.quantize.search.path import Row
from pipeline.recipe import Recipe
from pipeline.tasks.task import Answers, Task

SCREEN_IMAGES = (
    64  # images on which ONNX Runtime runs a graph, so that no engine is built of one that is clearly too bad
)
SECONDS = 4.0  # of timed calls of an engine for one latency, or fewer where benchmark.rounds and calls take less
LEAST_NOISE = 0.005  # of a ratio: smaller differences cannot be measured on any machine
_ERROR_OF_MEDIAN = 1.2533  # standard error of the median over that of the mean, for a normal distribution
_STD_OF_MAD = 1.4826  # standard deviation over the median absolute deviation, for a normal distribution


@dataclass(frozen=True, eq=False)
class Material:
    """What every trial needs. `fp32` are ONNX Runtime's answers with `source`, the FP32 graph; `proto` is that in the form that
    the backend reads. `candidates` has a decision for each of its layers, `found` the same with what the backend's dialect asks
    besides, and all ranges. `best` are the names of the layers that the dialect's policy `best` quantizes."""

    task: Task
    source: Path
    proto: onnx.ModelProto
    spec: Preprocess
    classes: tuple[str, ...]
    candidates: list[Decision]
    best: frozenset[str]
    found: Quantized
    split: SearchSplit
    fp32: Answers
    limits: Limits


@dataclass(frozen=True)
class Timing:
    """The median latency at batch 1, its ratio to FP32's (the two take turns), and twice the ratio's standard error."""

    latency_ms: float
    ratio: float
    noise: float


class Trials:
    """Tries mixes, with FP32's engine loaded beside them. A context manager."""

    def __init__(self, recipe: Recipe, material: Material, folder: Path):
        self._recipe, self._material, self._folder = recipe, material, folder
        self._stack = ExitStack()
        self._fp32: Runner | None = None
        self._floor = LEAST_NOISE

    def __enter__(self) -> "Trials":
        shutil.rmtree(self._folder, ignore_errors=True)  # what an interrupted search left
        self._folder.mkdir()
        self._stack.callback(shutil.rmtree, self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def know_noise(self, row: Row) -> None:
        """Give every later ratio at least the noise in the ratio of FP32 to itself, which is FP32's `row`."""
        self._floor = noise_floor(row)

    def fp32_row(self) -> Row:
        """FP32 on the backend, compared with ONNX Runtime's FP32, and timed against a second copy of itself.

        RuntimeError where its accuracy is not ONNX Runtime's.
        """
        runner, sidecar = self._open_fp32()
        found = self._compare(runner, sidecar)
        refused = refusal(found, self._material.limits)
        if refused:
            raise RuntimeError(
                f"{self._recipe.search.backend} does not compute the FP32 graph as ONNX Runtime does: {refused}; "
                f"it agrees on {found.agreement:.1f} % of {self._material.task.words.things_of('the search images')}"
            )
        _, again = self._load(self._folder / "fp32")
        with again:
            timing = self._time(again, runner)
        return self._row("FP32", frozenset(), 0, sidecar, found, timing, "")

    def row(self, names: frozenset[str], label: str) -> Row:
        """Build and measure the mix with `names` in INT8."""
        graph = self._graph(names)
        products, path = count_precisions(graph)["int8"], self._folder / "mix.onnx"
        onnx.save(graph, path)
        out = self._screen(path)
        if out is not None and (reason := hopeless(out, self._material.limits)):
            return self._row(label, names, products, None, out, None, f"{reason}, already in ONNX Runtime")
        try:
            sidecar = self._build(path, "mix")
        except (RuntimeError, InputError) as error:  # a builder that refuses the graph: the search continues without it
            reason = f"no engine: {one_line(str(error))}"
            return self._row(label, names, products, None, None, None, reason)
        fp32, _ = self._open_fp32()
        _, runner = self._load(self._folder / "mix")
        with runner:
            found = self._compare(runner, sidecar)
            timing = self._time(runner, fp32)
        shutil.rmtree(self._folder / "mix")
        return self._row(label, names, products, sidecar, found, timing, refusal(found, self._material.limits))

    def _row(
        self, label: str, names: frozenset[str], products: int, sidecar: Sidecar | None, found: Drop | None,
        timing: Timing | None, refused: str,
    ) -> Row:  # fmt: skip
        return Row(
            label, tuple(sorted(names)), products,
            None if sidecar is None or sidecar.layers is None else sidecar.layers["int8"],
            0 if found is None else found.images, None if found is None else found.score,
            None if found is None else found.drop_pp, None if found is None else found.highest_drop_pp,
            None if found is None else found.agreement, None if timing is None else timing.latency_ms,
            None if timing is None else timing.ratio, 0.0 if timing is None else max(timing.noise, self._floor), refused,
        )  # fmt: skip

    def _graph(self, names: frozenset[str]) -> onnx.ModelProto:
        found = self._material.found
        return write_quantized(
            self._material.proto, replace(found, decisions=mix_of(self._material.candidates, names, found.dialect.rules)),
            weight_bits=self._recipe.quantize.weight_bits,
        )  # fmt: skip

    def _screen(self, path: Path) -> Drop | None:
        """Accuracy of the graph, computed as written by ONNX Runtime, on a few images.

        None where the backend is ONNX Runtime itself, and where there is a latency budget: then the best mix must be found
        even if none holds the limits.
        """
        if self._recipe.search.backend == "onnxruntime" or self._recipe.search.budget_ms is not None:
            return None
        split, rows = self._material.split, spread(len(self._material.split.labels), SCREEN_IMAGES)
        with onnxruntime_backend.load(path, self._recipe.benchmark.threads, literal=True) as runner:
            ours = self._infer(runner, split.images[rows], None)
        return self._material.task.drop(ours, self._material.fp32[rows], split.labels[rows])

    def _compare(self, runner: Runner, sidecar: Sidecar) -> Drop:
        split = self._material.split
        ours = self._infer(runner, split.images, sidecar.max_batch)
        return self._material.task.drop(ours, self._material.fp32, split.labels)

    def _infer(self, runner: Runner, images: NDArray[np.uint8], max_batch: int | None) -> Answers:
        size = self._recipe.evaluate.batch_size
        return infer_answers(self._material.task, runner, images, min(size, max_batch or size))

    def _open_fp32(self) -> tuple[Runner, Sidecar]:
        if self._fp32 is None:
            self._build(self._material.source, "fp32")
            self._sidecar, runner = self._load(self._folder / "fp32")
            self._fp32 = self._stack.enter_context(runner)
        return self._fp32, self._sidecar

    def _build(self, path: Path, name: str) -> Sidecar:
        backend = self._recipe.search.backend
        wanted = [part for part in self._recipe.build if part.backend == backend]
        sizes = wanted[0].batch_sizes if wanted else (1, 1, 8)
        options = BuildOptions(**wanted[0].options.model_dump()) if wanted else BuildOptions()
        shutil.rmtree(self._folder / name, ignore_errors=True)
        spec = EngineSpec(backend, name, None, (1, sizes[1], sizes[2]), options)
        return build_engine(spec, path, self._folder / name, self._material.spec, list(self._material.classes))

    def _load(self, folder: Path) -> tuple[Sidecar, Runner]:
        return load_engine(folder, self._recipe.benchmark.threads)

    def _time(self, runner: Runner, fp32: Runner) -> Timing:
        """Time both engines in turns, as the benchmark stage does."""
        part, image = self._recipe.benchmark, self._material.split.images[:1]
        pair: Mapping[str, Runner] = {"fp32": fp32, "mix": runner}
        mode = part.model_copy(update={"batch_sizes": (1,), "seconds": min(part.seconds, SECONDS)})
        seconds = measure(pair, image, mode, dict.fromkeys(pair))
        return timing(seconds["mix"][1], seconds["fp32"][1], part.rounds)


def infer_answers(task: Task, runner: Runner, images: NDArray[np.uint8], batch: int) -> Answers:
    """What `task` keeps of the logits of `images` (N, H, W, 3), at most `batch` of which are in memory at a time."""
    size = fitting(batch, *images.shape[1:3])
    chunks = (infer_in_chunks(runner, images[start : start + size], size) for start in range(0, len(images), size))
    return np.concatenate([task.answers(logits) for chunk in chunks for logits in chunk])


def timing(ours: list[float], fp32: list[float], rounds: int) -> Timing:
    """From the seconds of all calls of two engines that took turns for `rounds` rounds of equally many calls."""
    medians = [np.median(np.reshape(seconds, (rounds, -1)), axis=1) for seconds in (ours, fp32)]
    ratios = medians[0] / medians[1]
    ratio = float(np.median(ratios))
    spread = _STD_OF_MAD * float(np.median(np.abs(ratios - ratio)))
    return Timing(1e3 * float(np.median(ours)), ratio, 2 * _ERROR_OF_MEDIAN * spread / float(np.sqrt(rounds)))


def noise_floor(fp32: Row) -> float:
    """The noise that this machine adds to a ratio, from FP32's row, where FP32 was timed against a copy of itself."""
    assert fp32.ratio is not None and not fp32.nodes
    return max(LEAST_NOISE, abs(fp32.ratio - 1), fp32.noise)


def mix_of(candidates: list[Decision], names: Collection[str], rules: Rules) -> list[Decision]:
    """The decisions of `candidates` with the layers `names` alone in INT8, and what `rules` ask besides for these."""
    mix = [of if of.layer.name in names else Decision(of.layer, "not in this mix") for of in candidates]
    return complete(mix, rules)


def candidates(weights: list[Decision], *others: list[Decision]) -> list[Decision]:
    """For each layer, the decision of the first policy that quantizes it."""
    merged = list(weights)
    for decisions in others:
        merged = [new if new.int8 and not old.int8 else old for old, new in zip(merged, decisions, strict=True)]
    return merged
