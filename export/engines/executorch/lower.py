"""Lower a graph to XNNPACK: ONNX → a program of PyTorch → ExecuTorch's edge program → `.pte`."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from export.engines.executorch.forms import as_xnnpack_takes_it
from export.engines.executorch.placed import Placed, read_placed
from export.program.program import read_program
from export.quiet import quiet

_FLATC = "FLATC_EXECUTABLE"  # where ExecuTorch looks for its compiler of schemas, before it looks at PATH
BATCH = 1  # images at a time: a phone has one


@dataclass(frozen=True)
class Lowered:
    """The bytes of a `.pte`, and where its operators run."""

    program: bytes
    placed: Placed


def lower(onnx_path: Path) -> Lowered:
    """For `BATCH` images, or the graph's own number of them. RuntimeError where ExecuTorch refuses it."""
    program = as_xnnpack_takes_it(read_program(onnx.load(onnx_path), batch=BATCH))
    try:
        with _own_flatc(), quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own deprecations
            return _lower(program)
    except Exception as error:  # its own errors have nothing else in common
        raise RuntimeError(f"ExecuTorch cannot lower it: {type(error).__name__}: {error}") from error


def _lower(program: Any) -> Lowered:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    placed = read_placed(edge.exported_program())
    return Lowered(bytes(edge.to_executorch().buffer), placed)


@contextmanager
def _own_flatc() -> Iterator[None]:
    """ExecuTorch's own schema compiler, which lies in its package: the environment's bin need not be on PATH."""
    spec = find_spec("executorch")
    assert spec is not None and spec.submodule_search_locations is not None
    flatc = Path(spec.submodule_search_locations[0]) / "data" / "bin" / "flatc"
    if _FLATC in os.environ or not flatc.is_file():
        yield
        return
    os.environ[_FLATC] = str(flatc)
    try:
        yield
    finally:
        del os.environ[_FLATC]
