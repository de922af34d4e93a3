"""A program of PyTorch compiled ahead of time: AOTInductor's package, a `.pt2` with machine code and packed weights.

On a CPU, products with constant weights become oneDNN's, whose weights are packed while compiling; those between uint8
activations and INT8 weights per channel (PT2E's operators) its INT8 kernels. All else becomes loops in C++ that g++ compiles for
this very CPU.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from export.engines.pytorch.layers import count_products
from export.quiet import quiet

if TYPE_CHECKING:
    import torch
    from torch.fx import Graph

_ADDED = 6  # the operand of oneDNN's INT8 product that is added to it
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compile_package(program: "torch.export.ExportedProgram", path: Path, facts: Mapping[str, str]) -> dict[str, int]:
    """Write the package to `path` with `facts` in it; gives its products by what they compute in.

    RuntimeError where PyTorch or its compiler fails.
    """
    import torch
    import torch._inductor

    layers: Counter[str] = Counter()
    _drop_assertions(program)

    def behind_freezing(graph: "Graph") -> None:
        _add_rows_that_lie_together(graph)
        layers.update(count_products(graph))

    options: dict[str, Any] = {
        "freezing": True,  # weights are constants, so that they are packed, and Q/DQ become INT8 kernels
        "cpp.dynamic_threads": True,  # the number of threads is that of the run
        "aot_inductor.metadata": dict(facts),
        "post_grad_custom_pre_pass": behind_freezing,
        # They are kept in the folder of /tmp wherever else the cache is, 140 MB each, and an engine needs each once.
        "cpp_cache_precompile_headers": False,
        "aot_inductor.precompile_headers": False,
    }
    with torch.no_grad(), _private_cache(path.parent), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of PyTorch's own code
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
        except Exception as error:  # Inductor's, Triton's and the C++ compiler's errors have nothing else in common
            raise RuntimeError(f"PyTorch's Inductor: {error}") from error
    return dict(layers)


def _drop_assertions(program: "torch.export.ExportedProgram") -> None:
    """Of types, which `torch.export` writes beside each cast: what one reads is not read by its product alone, and would become
    no INT8 kernel."""
    import torch

    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _add_rows_that_lie_together(graph: "Graph") -> None:
    """Copy what an INT8 product adds where that is a slice of wider rows: oneDNN has no kernel for it but its reference, which
    takes seconds (3136 × 64 × 64, a slice of Q, K and V)."""
    import torch

    onednn = torch.ops.onednn.qlinear_pointwise
    for node in list(graph.nodes):
        if node.target in (onednn.binary, onednn.binary_tensor) and not node.args[_ADDED].meta["val"].is_contiguous():
            added = node.args[_ADDED]
            with graph.inserting_before(node):
                copy = graph.call_function(
                    torch.ops.aten.clone.default, (added,), {"memory_format": torch.contiguous_format}
                )
            copy.meta["val"] = added.meta["val"].contiguous()
            node.update_arg(_ADDED, copy)


@contextmanager
def _private_cache(folder: Path) -> Iterator[None]:
    """Inductor writes, loads and compiles code in `folder`, which is gone behind it.

    By default that is a folder of /tmp whose name others on the machine know, so that they could make it first; PyTorch puts it
    into the environment as soon as it is imported. All that it compiled would stay there, and is of no use again.
    """
    before = os.environ.get(_CACHE)
    with TemporaryDirectory(dir=folder, prefix="inductor-") as place:
        os.environ[_CACHE] = place
        try:
            yield
        finally:
            if before is None:
                del os.environ[_CACHE]
            else:
                os.environ[_CACHE] = before
