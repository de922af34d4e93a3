"""Run a TensorRT or TensorRT-RTX engine on this machine's GPU, with CUDA memory from cuda-bindings: no torch."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from calib.errors import InputError
from export.engines.tensorrt.build import Messages, create_logger
from export.engines.tensorrt.cuda_calls import Cuda
from export.engines.tensorrt.lane import Lane, read_tensors
from export.runner import Arrays, DeviceTimes, RunMode, RunOptions, TensorInfo, check_feeds, in_fixed_batches


class TensorRtRunner:
    """Runs one engine, of either flavour; see `export.runner.Runner`. `trt` is the flavour's Python module.

    `weights` is the ONNX that a weight-stripped engine was built from. Only an engine that was built version compatible
    may bring its own code (`host_code`).

    Raises InputError where TensorRT refuses the engine, CudaError where a CUDA call fails.
    """

    def __init__(
        self, trt: Any, engine_path: Path, options: RunOptions | None = None, *, weights: Path | None = None,
        host_code: bool = False,
    ):  # fmt: skip
        self._trt, self._cuda, self._options = trt, Cuda(), options or RunOptions()
        self._messages = Messages()
        with ExitStack() as stack:  # frees what was reserved if anything below fails
            before = self._cuda.free_memory()
            self._runtime = trt.Runtime(create_logger(trt, self._messages))
            if host_code:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._load(engine_path)
            if weights is not None:
                self._refit(engine_path, weights)
            self.inputs, self.outputs = read_tensors(trt, self._engine)
            self._load_bytes = before - self._cuda.free_memory()
            self._lanes = [self._lane(stack)]
            self._stack = stack.pop_all()

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def device_memory_bytes(self) -> int:
        """Device memory that loading the engine and preparing its batch sizes took: the fall in what CUDA has free.

        On a Jetson, and wherever other processes use the GPU meanwhile, theirs is in it too.
        """
        return max(self._load_bytes + sum(lane.taken_bytes for lane in self._lanes), 0)

    @property
    def mode(self) -> RunMode:
        """How the engine is run, for the batch sizes seen so far."""
        graphs = {size: plain for lane in self._lanes for size, plain in lane.graphs().items()}
        return RunMode(graphs, "spin" if self._options.spin else "blocking", transfers=True)

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run one batch: copy in, execute, copy out, wait. Any batch the optimization profile covers; of an engine with a fixed
        batch any, which is run in several.

        Raises ValueError for feeds of another name, dtype or shape, or a batch outside the profile.
        """
        if any(lane.busy is not None for lane in self._lanes):
            raise RuntimeError("infer_stream is not at its end: take all of its outputs, or close it, first")
        return in_fixed_batches(self.inputs, feeds, self._run)

    def infer_stream(self, batches: Iterable[Arrays]) -> Iterator[dict[str, NDArray[Any]]]:
        """The outputs of many batches, in order. Two are under way at a time, each on a stream of its own: while the
        GPU computes one, the next one is made and copied."""
        if len(self._lanes) == 1:
            self._lanes.append(self._lane(self._stack))
        idle, waiting = deque(self._lanes), deque[Lane]()
        try:
            for feeds in batches:
                if not idle:
                    idle.append(waiting.popleft())
                    yield idle[0].collect()
                self._submit(idle[0], feeds)
                waiting.append(idle.popleft())
            while waiting:
                yield waiting.popleft().collect()
        finally:  # also where the reader of this generator stops early
            for lane in self._lanes:
                if lane.busy is not None:
                    lane.collect()

    def device_times(self) -> DeviceTimes:
        """Of the last `infer`: what the GPU's own clock says, as trtexec reports it."""
        return self._lanes[0].times()

    def __enter__(self) -> "TensorRtRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        finally:
            self._lanes = []
            self._engine = self._runtime = None  # in this order: an object must go before the one that owns its memory

    def _run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        self._submit(self._lanes[0], feeds)
        return self._lanes[0].collect()

    def _submit(self, lane: Lane, feeds: Arrays) -> None:
        check_feeds(self.inputs, feeds)
        lane.submit(feeds)

    def _lane(self, stack: ExitStack) -> Lane:
        return Lane(self._trt, self._engine, self._cuda, self._options, self._messages, stack)

    def _load(self, engine_path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(engine_path.read_bytes())
        if engine is None:
            raise InputError(
                f"TensorRT refuses the engine {engine_path}", got=self._messages.reason(),
                allowed="an engine built by this TensorRT for this GPU", next_step="t2t-edge build",
            )  # fmt: skip
        return engine

    def _refit(self, engine_path: Path, weights: Path) -> None:
        """Put the weights of the ONNX into an engine that was built without."""
        trt = self._trt
        refitter = trt.Refitter(self._engine, create_logger(trt, self._messages))
        onnx_refitter = trt.OnnxParserRefitter(refitter, create_logger(trt, self._messages))
        if onnx_refitter.refit_from_file(str(weights)) and refitter.refit_cuda_engine():
            return
        missing = ", ".join(refitter.get_missing_weights()[:3])
        raise InputError(
            f"the weights of {weights} do not fit the weight-stripped engine {engine_path}",
            got=f"{self._messages.reason()}{f'; missing: {missing}' if missing else ''}",
            allowed="the ONNX that the engine was built from", next_step="t2t-edge build",
        )  # fmt: skip
