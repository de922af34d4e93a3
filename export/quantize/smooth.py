"""SmoothQuant (Xiao et al. 2022, arXiv 2211.10438) on the FP32 graph: the same function, with easier activations.

The largest magnitude of every channel is collected once; each alpha then costs arithmetic on weights alone.
"""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calib.errors import InputError
from calib.precision.smoothing import Distance, layer_error, logits_distance, smoothing_scale
from export.engines import onnxruntime_backend
from export.forms.folds import Consumer, Fold, find_folds
from export.onnx_export import INPUT, OUTPUT

ROWS, ROWS_PER_BATCH = 256, 32  # activations kept per tensor, to compare alphas layer by layer
NONE, PER_LAYER = "none", "per layer"

Array = NDArray[Any]
Batches = Iterable[NDArray[np.uint8]]  # of (n, H, W, 3)


@dataclass(frozen=True)
class Channels:
    """A tensor's largest magnitude per channel, float64 (channels,), and some of its rows, float32 (n, channels)."""

    amax: NDArray[np.float64]
    rows: NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """What can be smoothed in a graph, and the statistics of the consumers' inputs, by tensor."""

    folds: list[Fold]
    channels: dict[str, Channels]


@dataclass(frozen=True)
class SmoothedLayer:
    """One fold as it was applied: `made_by` was divided by `scale` (channels,), the `consumers`' rows multiplied.

    `alpha` None is a layer that was left alone. `amax_before` and `amax_after` are the largest magnitude in the consumers'
    inputs on the calibration images; `balance_*` that magnitude over the channels' median, 1 where all are alike.
    """

    made_by: str
    kind: str
    consumers: tuple[str, ...]
    alpha: float | None
    scale: NDArray[np.float64]
    amax_before: float
    amax_after: float
    balance_before: float
    balance_after: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; of the scale its range."""
        row = asdict(self)
        return row | {"consumers": list(self.consumers), "scale": [float(self.scale.min()), float(self.scale.max())]}


@dataclass(frozen=True)
class Smoothing:
    """All folds, and the largest magnitude that each consumer's input has after smoothing, by tensor.

    With the method `max` that is the tensor's range: it needs no pass over the images.
    """

    layers: list[SmoothedLayer]
    amax: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """One row of the sweep: `name` is an alpha, NONE or PER_LAYER; its quantized graph's logits against FP32's."""

    name: str
    alpha: float | None
    mse: float
    kl: float
    snr_db: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a distance that is infinite is null."""
        return {
            key: None if isinstance(value, float) and np.isinf(value) else value for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Sweep:
    """The table, its best row, and what was written; `smoothing` is None where the unsmoothed graph is the best."""

    best: Candidate
    candidates: list[Candidate]
    smoothing: Smoothing | None


def smooth_onnx(source: Path, target: Path, batches: Batches, alpha: float, *, threads: int = 0) -> Smoothing:
    """Write the FP32 graph `source`, smoothed with one `alpha`, to `target`. One pass over `batches`.

    `threads` is ONNX Runtime's, 0 for all cores. Batches of 8 images at 224 px need at most 0.3 GB beside the graph.
    """
    proto, smoothing = apply_smoothing(onnx.load(source), read_plan(source, batches, threads=threads), alpha)
    onnx.save(proto, target)
    return smoothing


def read_plan(source: Path, batches: Batches, *, threads: int = 0) -> Plan:
    """Find what can be smoothed in the FP32 graph `source` and measure its channels; one pass over `batches`."""
    folds = find_folds(onnx.load(source))
    if not folds:
        raise InputError(
            "SmoothQuant has nothing to smooth in this network", got="no norm or values that only feed constant weights",
            allowed="networks with LayerNormalization or attention", next_step="set quantize.method to max or entropy",
        )  # fmt: skip
    tensors = dict.fromkeys(consumer.tensor for fold in folds for consumer in fold.consumers)
    return Plan(folds, collect_channels(source, list(tensors), batches, threads=threads))


def collect_channels(
    source: Path, tensors: Sequence[str], batches: Batches, *, threads: int = 0
) -> dict[str, Channels]:
    """Largest magnitude per channel, the last axis, of some tensors of `source`; holds one batch at a time."""
    amax: dict[str, NDArray[np.float64]] = {}
    rows: defaultdict[str, list[NDArray[np.float32]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tapped.onnx"
        _write_with_outputs(source, path, tensors)
        with onnxruntime_backend.load(path, threads) as runner:
            for batch in batches:
                results = runner.infer({INPUT: batch})
                for name in tensors:
                    values = results[name].reshape(-1, results[name].shape[-1])
                    largest = np.abs(values).max(axis=0).astype(np.float64)
                    amax[name] = np.maximum(amax[name], largest) if name in amax else largest
                    if len(rows[name]) < ROWS // ROWS_PER_BATCH:
                        chosen = np.unique(np.linspace(0, len(values) - 1, ROWS_PER_BATCH).astype(int))
                        rows[name].append(values[chosen].copy())
    if not amax:
        raise InputError("there are no images to measure activations on", got="0 batches", allowed="at least one")
    broken = next((name for name, largest in amax.items() if not np.isfinite(largest).all()), None)
    if broken is not None:
        raise InputError(
            "the FP32 graph gives activations that are not finite", got=f"NaN or infinity in {broken}",
            allowed="finite activations", next_step="check the trained weights and the calibration images",
        )  # fmt: skip
    return {name: Channels(largest, np.concatenate(rows[name])) for name, largest in amax.items()}


def _write_with_outputs(source: Path, target: Path, tensors: Sequence[str]) -> None:
    proto = onnx.load(source)
    given = {value.name for value in proto.graph.output}
    for name in tensors:
        if name not in given:  # without a shape: ONNX Runtime infers it
            proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    known = [info for info in proto.graph.value_info if info.name not in tensors]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(known)
    onnx.save(proto, target)


def apply_smoothing(
    proto: onnx.ModelProto, plan: Plan, alpha: float | Mapping[str, float | None]
) -> tuple[onnx.ModelProto, Smoothing]:
    """A smoothed copy of `proto`: one alpha for all folds, or one by fold's name, with None for those to leave alone.

    Scales come from the weights that `proto` has, so their order does not matter. Node and tensor names are kept; every
    constant that changes becomes the node's own, whoever shared it.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    constants = _Constants(result)
    layers, largest = [], {}
    for fold in plan.folds:
        own = alpha.get(fold.name) if isinstance(alpha, Mapping) else alpha
        scale = fold_scale(fold, plan, constants.original, own)
        for constant in fold.made_by:
            constants.scale(constant.node, constant.input, constant.axis, 1 / scale)
        for consumer in fold.consumers:
            constants.scale(consumer.weight.node, 1, consumer.weight.axis, scale[consumer.labels])
            largest[consumer.tensor] = float((plan.channels[consumer.tensor].amax / scale[consumer.labels]).max())
        layers.append(_describe(fold, plan, own, scale))
    constants.store()
    onnx.checker.check_model(result, full_check=True)
    return result, Smoothing(layers, largest)


def fold_scale(
    fold: Fold, plan: Plan, constant: Callable[[str, int], Array], alpha: float | None
) -> NDArray[np.float64]:
    """s of every channel of a fold, (channels,); 1 where a channel may not be scaled, or alpha is None.

    W's largest magnitude is over the columns of all consumers, X's over all their inputs.
    """
    scale = np.ones(len(fold.free))
    if alpha is None:
        return scale
    x, w = np.zeros(len(scale)), np.zeros(len(scale))
    for consumer in fold.consumers:
        np.maximum.at(x, consumer.labels, plan.channels[consumer.tensor].amax)
        np.maximum.at(w, consumer.labels, np.abs(_rows(consumer, constant)).max(axis=1))
    return np.where(fold.free, smoothing_scale(x, w, alpha), scale)


def _rows(consumer: Consumer, constant: Callable[[str, int], Array]) -> Array:
    """A consumer's weight with its input channels first, (channels, columns)."""
    return np.moveaxis(constant(consumer.weight.node, 1), consumer.weight.axis, 0)


def _describe(fold: Fold, plan: Plan, alpha: float | None, scale: NDArray[np.float64]) -> SmoothedLayer:
    before = np.concatenate([plan.channels[consumer.tensor].amax for consumer in fold.consumers])
    after = before / np.concatenate([scale[consumer.labels] for consumer in fold.consumers])
    return SmoothedLayer(
        fold.name, fold.kind, tuple(consumer.weight.node for consumer in fold.consumers), alpha, scale,
        float(before.max()), float(after.max()), _balance(before), _balance(after),
    )  # fmt: skip


def _balance(amax: NDArray[np.float64]) -> float:
    alive = amax[amax > 0]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0


class _Constants:
    """The constant operands of a graph by node and input: changed in float64, stored under names of their own."""

    def __init__(self, proto: onnx.ModelProto):
        self._graph = proto.graph
        self._nodes = {node.name: node for node in proto.graph.node}
        self._stored = {initializer.name: initializer for initializer in proto.graph.initializer}
        self._changed: dict[tuple[str, int], Array] = {}

    def original(self, node: str, index: int) -> Array:
        """The operand as it was at the start."""
        return numpy_helper.to_array(self._stored[self._nodes[node].input[index]])

    def scale(self, node: str, index: int, axis: int, factors: NDArray[np.float64]) -> None:
        """Multiply the operand by one factor per entry of its axis."""
        if (factors == 1).all():
            return
        values = self._changed.get((node, index))
        if values is None:
            values = self.original(node, index).astype(np.float64)
        shape = [1] * values.ndim
        shape[axis] = -1
        self._changed[node, index] = values * factors.reshape(shape)

    def store(self) -> None:
        """Write the changed operands into the graph, and drop what nothing reads any more."""
        replaced = set()
        for (name, index), values in self._changed.items():
            old = self._nodes[name].input[index]
            dtype = numpy_helper.to_array(self._stored[old]).dtype
            tensor = numpy_helper.from_array(values.astype(dtype), f"{old}_smooth_{name}_{index}")
            self._graph.initializer.append(tensor)
            self._nodes[name].input[index] = tensor.name
            replaced.add(old)
        unused = replaced - {name for node in self._graph.node for name in node.input}
        kept = [initializer for initializer in self._graph.initializer if initializer.name not in unused]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def choose_alphas(proto: onnx.ModelProto, plan: Plan, alphas: Sequence[float]) -> dict[str, float | None]:
    """For each fold the alpha with the least error of its consumers' outputs in INT8, None where no smoothing is best.

    Each layer alone, on the rows that the plan kept: quick, but blind to what the layers after it make of an error.
    """
    constants = _Constants(proto)
    chosen: dict[str, float | None] = {}
    for fold in plan.folds:
        errors = {alpha: _fold_error(fold, plan, constants, alpha) for alpha in (None, *alphas)}
        chosen[fold.name] = min(errors, key=lambda alpha: errors[alpha])
    return chosen


def _fold_error(fold: Fold, plan: Plan, constants: _Constants, alpha: float | None) -> float:
    scale = fold_scale(fold, plan, constants.original, alpha)
    error = 0.0
    for consumer in fold.consumers:
        own, stats = scale[consumer.labels], plan.channels[consumer.tensor]
        weight = _rows(consumer, constants.original) * own[:, None]
        error += layer_error(stats.rows / own, weight, float((stats.amax / own).max())) * weight.shape[1]
    return error


def sweep_alpha(
    source: Path,
    target: Path,
    batches: Callable[[], Batches],
    alphas: Sequence[float],
    quantize: Callable[[Path], Path],
    *,
    threads: int = 0,
    progress: Callable[[Candidate], None] | None = None,
) -> Sweep:
    """Smooth with each alpha, quantize, and write the smoothed FP32 graph whose INT8 logits are nearest FP32's to `target`.

    `quantize` gets the path of an FP32 graph and returns that of its INT8 graph, made with the same Q/DQ as the result
    will be. Beside the alphas the graph as it is and an alpha per layer are tried; on a tie the earlier is taken, so that
    a smoothing that gains nothing is not taken. `batches()` starts a pass over the images: one per candidate and two more.
    """
    if not alphas:
        raise InputError(
            "the sweep has no alpha to try", got="an empty list", allowed="one or more numbers from 0 to 1"
        )
    proto, plan = onnx.load(source), read_plan(source, batches(), threads=threads)
    settings: dict[str, Any] = {NONE: None} | {f"{alpha:g}": float(alpha) for alpha in alphas}
    settings[PER_LAYER] = choose_alphas(proto, plan, alphas)
    reference = _logits(source, batches(), threads)
    candidates = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, setting in settings.items():
            path = Path(scratch) / "smoothed.onnx"
            if name == NONE:
                shutil.copyfile(source, path)
            else:
                onnx.save(apply_smoothing(proto, plan, setting)[0], path)
            distance = logits_distance(reference, _logits(quantize(path), batches(), threads))
            candidates.append(_candidate(name, setting, distance))
            if progress is not None:
                progress(candidates[-1])
    best = min(candidates, key=lambda candidate: candidate.mse)
    if best.name == NONE:
        shutil.copyfile(source, target)
        return Sweep(best, candidates, None)
    smoothed, smoothing = apply_smoothing(proto, plan, settings[best.name])
    onnx.save(smoothed, target)
    return Sweep(best, candidates, smoothing)


def _candidate(name: str, setting: float | Mapping[str, float | None] | None, distance: Distance) -> Candidate:
    alpha = setting if isinstance(setting, float) else None
    return Candidate(name, alpha, distance.mse, distance.kl, distance.snr_db)


def _logits(path: Path, batches: Batches, threads: int) -> NDArray[np.float32]:
    """Logits (images, classes) of the graph as written: some CPUs' INT8 kernels saturate, and that would be scored too."""
    with onnxruntime_backend.load(path, threads, literal=True) as runner:
        return np.concatenate([runner.infer({INPUT: batch})[OUTPUT] for batch in batches])
