"""The process that computes: ExecuTorch's own runtime on one program, told what to do by a pipe, with arrays in shared memory.

`python -m export.engines.executorch.child ENGINE THREADS DESCRIPTOR`. A line of JSON on stdout says what the program takes and
gives, or why it cannot be loaded. Then each byte on stdin is one call: the inputs lie in the memory that the descriptor is
of, one behind another, and the outputs behind them; a line of JSON answers, `{}` or an error. It ends when stdin does.
"""

import contextlib
import json
import mmap
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

CALL, DONE = b"c", b"{}\n"
_DTYPES = {0: "uint8", 1: "int8", 4: "int64", 6: "float32"}  # the runtime's numbers of them
_ALIGNMENT = 64  # bytes, of each array in the memory
_PEAK = Path("/proc/self/clear_refs")  # writing 5 makes the system count a process's highest memory anew
_STATUS = Path("/proc/self/status")


def main() -> None:
    """Load, say what there is, and compute until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's: it closes stdin
    engine, threads, descriptor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        program = _Program(engine, threads)
    except Exception as error:  # whatever the runtime raises is the answer
        _refuse(answers, error)
        return
    os.ftruncate(descriptor, program.size)
    program.take(mmap.mmap(descriptor, program.size))
    _write(answers, program.interface)
    calls = os.fdopen(0, "rb", buffering=0)
    while calls.read(1) == CALL:
        try:
            program.run()
        except Exception as error:  # as above
            _refuse(answers, error)
        else:
            answers.write(DONE)


class _Program:
    """One loaded program, and the arrays that it takes and gives."""

    def __init__(self, engine: str, threads: int):
        import torch

        torch.set_num_threads(1)  # it computes nothing
        import executorch.kernels.quantized  # noqa: F401  (kernels for Q/DQ outside XNNPACK)
        from executorch.extension.pybindings import _portable_lib as runtime

        if threads:
            runtime._unsafe_reset_threadpool(threads)
        with contextlib.suppress(OSError):  # a system without it: imports are counted as the engine's memory
            _PEAK.write_text("5", encoding="ascii")
        before = _resident()
        self._loaded = runtime._load_program(engine)  # its method points into it
        self._method = self._loaded.load_method("forward")
        meta = self._method.method_meta()
        inputs = [_described(meta.input_tensor_meta(place)) for place in range(meta.num_inputs())]
        outputs = [_described(meta.output_tensor_meta(place)) for place in range(meta.num_outputs())]
        self._infos, self._count = [*inputs, *outputs], len(inputs)
        self._places, self.size = _lay_out(self._infos)
        self.interface = {
            "inputs": inputs, "outputs": outputs, "places": self._places, "size": self.size,
            "threads": runtime._threadpool_get_thread_count(), "memory_before": before,
        }  # fmt: skip

    def take(self, memory: mmap.mmap) -> None:
        """Compute in `memory` from now on."""
        import torch

        arrays = [
            np.frombuffer(memory, info["dtype"], int(np.prod(info["shape"])), place).reshape(info["shape"])
            for info, place in zip(self._infos, self._places, strict=True)
        ]
        self._feeds = tuple(torch.from_numpy(array) for array in arrays[: self._count])
        self._results = arrays[self._count :]

    def run(self) -> None:
        """Outputs of the inputs that lie in the memory."""
        for array, found in zip(self._results, self._method.call(self._feeds, clone_outputs=False), strict=True):
            np.copyto(array, found.numpy())


def _described(info: Any) -> dict[str, Any]:
    return {"shape": list(info.sizes()), "dtype": _DTYPES[info.dtype()]}


def _lay_out(infos: list[dict[str, Any]]) -> tuple[list[int], int]:
    """Where each array begins, and the bytes of all together."""
    places, end = [], 0
    for info in infos:
        places.append(end)
        size = int(np.prod(info["shape"])) * np.dtype(info["dtype"]).itemsize
        end += -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
    return places, end


def _resident() -> int | None:
    """Bytes of memory that this process has now; None where the system does not say."""
    if not _STATUS.is_file():
        return None
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _refuse(answers: BinaryIO, error: Exception) -> None:
    _write(answers, {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})


def _write(answers: BinaryIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    main()
