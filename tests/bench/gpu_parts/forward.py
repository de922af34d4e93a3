"""The forward pass of one network at one batch: each variant made ready, compared with FP32, and timed in turns."""

from copy import deepcopy
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from bench.gpu_parts.clock import Call, Turn, allow_tf32, take_turns, timing, wait, warm_up
from bench.gpu_parts.failures import NotHere, Progress, failure
from bench.gpu_parts.int8 import Quantized, calibrate, decide_layers, quantize
from bench.gpu_parts.networks import FromPixels, build_network, embedded_images, lower
from bench.gpu_parts.parts import BASELINE, Part, Scale, Variant
from bench.gpu_parts.roofline import count_work
from numpy.typing import NDArray

from calib.precision.closeness import compare_logits

MIB = 2**20
TF32_SINCE = (8, 0)  # compute capability
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
MODES = {"compiled": None, "autotuned": "max-autotune-no-cudagraphs"}  # graphs are captured here, the same way for all


class Forward:
    """The variants of a network, made once each: a graph is captured of what another variant has compiled."""

    def __init__(self, part: Part, scale: Scale, device: torch.device, compiler: str):
        self.part, self.device, self.compiler = part, device, compiler
        torch.backends.cudnn.benchmark = True
        self.network = build_network(part.network, part.size, device)
        self.images = torch.from_numpy(embedded_images("val", scale.images, part.size)).to(device)
        self.calibration = torch.from_numpy(embedded_images("train", scale.calibration_images, part.size)).to(device)
        self.batch = self.images[: part.batch].clone()  # what a call reads, and what a CUDA graph has fixed
        self.quantized: Quantized | None = None
        self._networks: dict[str, FromPixels] = {"fp32": self.network, "tf32": self.network}
        self._modules: dict[tuple[str, str], torch.nn.Module] = {}

    def turn(self, variant: Variant) -> Turn:
        """A call that computes the logits of `self.batch`. NotHere where this device cannot."""
        self._check(variant)
        allow_tf32(tf32_of(variant))
        call = partial(self._module(variant), self.batch)
        return Turn(self._captured(call) if variant.graph else partial(without_autograd, call), tf32_of(variant))

    def network_in(self, precision: str) -> FromPixels:
        """The network as the precision has it, not compiled."""
        if precision not in self._networks:
            if precision == "int8":
                self._networks[precision] = self._int8()
            else:
                self._networks[precision] = lower(self.network, HALVES[precision])
        return self._networks[precision]

    def _int8(self) -> FromPixels:
        """The chosen layers in INT8, the rest in FP16; ranges from FP32."""
        allow_tf32(False)
        seen = calibrate(self.network, self.calibration, self.part.batch)
        copy = deepcopy(self.network)
        self.quantized = quantize(copy, decide_layers(copy, seen, self.part.batch), seen, torch.float16)
        allow_tf32(True)
        return lower(copy, torch.float16)

    def _check(self, variant: Variant) -> None:
        if self.device.type != "cuda" and (variant.graph or variant.precision == "tf32"):
            raise NotHere("needs a GPU")
        if variant.precision == "tf32" and torch.cuda.get_device_capability(self.device) < TF32_SINCE:
            raise NotHere("TF32 needs compute capability 8.0")

    def _module(self, variant: Variant) -> torch.nn.Module:
        key = (variant.precision, variant.compiled)
        if key not in self._modules:
            network = self.network_in(variant.precision)
            if variant.compiled:
                # options of inductor alone: another compiler, as tests have, takes none
                mode = MODES[variant.compiled] if self.compiler == "inductor" else None
                network = torch.compile(network, backend=self.compiler, mode=mode, dynamic=False)
            self._modules[key] = network
        return self._modules[key]

    @torch.inference_mode()
    def _captured(self, call: Call) -> Call:
        """A CUDA graph of `call`; replayed it reads `self.batch` again and returns the same tensor."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # what is compiled, tried or allocated once must not be in the graph
                call()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = call()

        def replay() -> object:
            graph.replay()
            return logits

        return replay

    def logits(self, turn: Turn) -> NDArray[np.float32]:
        """Of all images, batch after batch; the last one may see images twice, which are cut off."""
        turn.begin()
        found = []
        for part in self.images.split(self.part.batch):
            rows = torch.arange(self.part.batch, device=self.device) % len(part)
            self.batch.copy_(part[rows])
            found.append(turn.call()[: len(part)].float().cpu().numpy())  # type: ignore[index]
        self.batch.copy_(self.images[: self.part.batch])
        return np.concatenate(found)


def without_autograd(call: Call) -> object:
    """`call`, in the mode that has the least to do beside it."""
    with torch.inference_mode():
        return call()


def tf32_of(variant: Variant) -> bool:
    """FP32 is FP32; in every other variant what is left in float32 may round to TF32's ten bits, which FP16 has, too."""
    return variant.precision != "fp32"


def measure_forward(
    part: Part, scale: Scale, device: torch.device, progress: Progress, without: dict[str, str], compiler: str
) -> dict[str, Any]:
    """A row for each variant. Those named in `without` are not tried: they ended an earlier process, for these reasons."""
    if reason := without.get(BASELINE.name):
        return {"failed": reason}
    progress.at(BASELINE.name)
    forward = Forward(part, scale, device, compiler)
    reference: NDArray[np.float32] | None = None
    rows: dict[str, dict[str, Any]] = {}
    turns: dict[str, Turn] = {}
    broken: dict[
        tuple[str, str], str
    ] = {}  # what did not compile is not tried once more for its graph, which takes minutes
    for variant in part.variants:
        name, call = variant.name, (variant.precision, variant.compiled)
        if reason := without.get(name) or broken.get(call):
            rows[name], broken[call] = {"failed": reason}, reason
            continue
        progress.at(name)
        try:
            turn = forward.turn(variant)
            warm_up(turn.call, device)
            logits = forward.logits(turn)
            reference = logits if reference is None else reference
            rows[name] = _exactness(reference, logits) | _memory(forward, variant, turn)
            turns[name] = turn
        except NotHere as absent:
            rows[name] = {"unavailable": str(absent)}
        except Exception as error:  # kept as the row's reason; the next variant goes on
            broken[call] = failure(error, device, progress)
            rows[name] = {"failed": broken[call]}
        if reference is None:
            return {"failed": rows[name]["failed"]}
    progress.at("turns")
    seconds = take_turns(turns, scale.rounds, scale.turn_seconds, device)
    for name in turns:
        rows[name] |= timing(seconds[name], seconds[BASELINE.name], part.batch)
    layers = None if forward.quantized is None else asdict(forward.quantized)
    work, uncounted = _work(forward, part, rows, progress)
    return {
        "variants": rows, "work": work, "work_failed": uncounted, "int8_layers": layers, "images": len(forward.images),
    }  # fmt: skip


def _exactness(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> dict[str, Any]:
    close = compare_logits(reference, logits).to_dict()
    return {key: close[key] for key in ("agreement", "ties", "snr_db")}


def _memory(forward: Forward, variant: Variant, turn: Turn) -> dict[str, Any]:
    """MiB of the weights, and what a call takes on top; not of a graph, whose memory was taken when it was captured."""
    network = forward.network_in(variant.precision)
    tensors = [*network.parameters(), *network.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB
    extra = None
    if forward.device.type == "cuda" and not variant.graph:
        wait(forward.device)
        torch.cuda.reset_peak_memory_stats(forward.device)
        before = torch.cuda.memory_allocated(forward.device)
        turn.call()
        wait(forward.device)
        extra = round((torch.cuda.max_memory_allocated(forward.device) - before) / MIB, 1)
    return {"weights_mib": round(weights, 1), "call_mib": extra}


def _work(
    forward: Forward, part: Part, rows: dict[str, dict[str, Any]], progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """By precision (TF32's is FP32's), and the reasons of those that could not be counted."""
    ran = {variant.precision for variant in part.variants if "ms" in rows[variant.name]} - {"tf32"}
    work: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for precision in sorted(ran):
        allow_tf32(precision != "fp32")
        try:
            work[precision] = count_work(forward.network_in(precision), forward.batch)
        except Exception as error:  # the times stay
            failed[precision] = failure(error, forward.device, progress)
    return work, failed
