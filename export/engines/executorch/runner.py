"""A runner whose engine computes in a process of its own: whatever happens there, the caller gets an error and lives on."""

import json
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.engines.executorch.child import CALL, DONE
from export.runner import INPUT, OUTPUT, Arrays, TensorInfo, check_feeds, in_fixed_batches

_ROOT = Path(__file__).parents[3]  # from which the child is found, wherever the caller works
_LAST_WORDS = 300  # characters of what a process said before it ended


class ExecuTorchRunner:
    """Runs one program for a fixed number of images; see `export.runner.Runner`. `threads` 0 is the runtime's own choice.

    RuntimeError where the program cannot be loaded or run, or its process ends, with the last that it said.
    """

    def __init__(self, engine_path: Path, threads: int):
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (what the process says: a pipe could fill up and stop it)
        self._heard = 0  # bytes of it that are no news: every process says something when it starts
        descriptor = os.memfd_create("t2t-edge")
        command = [sys.executable, "-m", "export.engines.executorch.child", str(engine_path.resolve())]
        try:
            self._process = subprocess.Popen(
                [*command, str(threads), str(descriptor)], cwd=_ROOT, pass_fds=(descriptor,), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self._words,
            )  # fmt: skip
            try:
                self._open(descriptor, threads)
            except BaseException:
                self._stop()
                raise
        finally:
            os.close(descriptor)

    def _open(self, descriptor: int, threads: int) -> None:
        """Hear what the program takes and gives, and see the arrays."""
        told = self._answer()
        if threads and told["threads"] != threads:
            raise RuntimeError(f"ExecuTorch computes with {told['threads']} threads, not with {threads}")
        self._heard = self._words.seek(0, os.SEEK_END)
        self.inputs = _infos([INPUT], told["inputs"])
        self.outputs = _infos([OUTPUT], told["outputs"])
        self._memory_before = told["memory_before"]
        self._memory = mmap.mmap(descriptor, told["size"])
        arrays = [
            np.frombuffer(self._memory, info.dtype, int(np.prod(info.shape)), place).reshape(info.shape)  # type: ignore[arg-type]
            for info, place in zip((*self.inputs, *self.outputs), told["places"], strict=True)
        ]
        self._arrays = {info.name: array for info, array in zip((*self.inputs, *self.outputs), arrays, strict=True)}

    @property
    def memory_bytes(self) -> int | None:
        """The highest memory of its process since before the program was loaded; None where the system does not say."""
        status = Path(f"/proc/{self._process.pid}/status")
        if self._memory_before is None or not status.is_file():
            return None
        highest = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        return None if highest is None else max(int(highest[1]) * 1024 - int(self._memory_before), 0)

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return in_fixed_batches(self.inputs, feeds, self._run)

    def _run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        check_feeds(self.inputs, feeds)
        for name, values in feeds.items():
            np.copyto(self._arrays[name], values)
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), CALL)
        except BrokenPipeError:
            raise self._ended() from None
        self._answer()
        return {info.name: self._arrays[info.name].copy() for info in self.outputs}

    def _answer(self) -> dict[str, Any]:
        """The next line of the process. RuntimeError for an error that it tells, or where it ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line == DONE:
            return {}
        if not line.endswith(b"\n"):
            raise self._ended()
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise RuntimeError(f"ExecuTorch: {told['error']}{self._last_words()}")
        return told

    def _ended(self) -> RuntimeError:
        status = self._process.wait()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return RuntimeError(f"ExecuTorch's process {how}{self._last_words()}")

    def _last_words(self) -> str:
        """What the process said last, behind a colon; "" where it said nothing."""
        end = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(self._heard, end - 4 * _LAST_WORDS))
        text = " ".join(self._words.read().decode(errors="replace").split())
        return f": …{text[-_LAST_WORDS:]}" if len(text) > _LAST_WORDS else f": {text}" if text else ""

    def _stop(self) -> None:
        self._process.kill()  # it has nothing to save
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._words):
            assert file is not None
            file.close()

    def __enter__(self) -> "ExecuTorchRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


def _infos(names: list[str], told: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    """One input or output has the name of every network's; of several they are numbered."""
    named = names if len(told) == 1 else [f"{names[0]}_{place}" for place in range(len(told))]
    return tuple(TensorInfo(name, tuple(info["shape"]), info["dtype"]) for name, info in zip(named, told, strict=True))
