"""PyTorch as everybody runs it: eager, in FP32, an operator after the other. The baseline, as a row of its own.

The engine is the graph, read as a program of PyTorch's operators. On one core it took as long as the network's own modules did:
42.2 and 44.2 ms for t2t_vit_7, 38.9 and 38.0 for vit_tiny, 61.7 and 61.9 for resnet18 (224 px; network, program).
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.engines.pytorch import runner
from export.engines.pytorch.layers import count_products
from export.engines.pytorch.runner import TorchRunner, describe_graph, device_here
from export.runner import Engine

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ENGINE_NAME = "engine.onnx"
INSTALL, INSTALL_ON_DEVICE = runner.INSTALL, runner.INSTALL_ON_DEVICE
version, check_available_to_run = runner.version, runner.check_available_to_run
check_available_to_build = check_available_to_run  # both need the package alone


def build(onnx_path: Path, engine_path: Path) -> Engine:
    """Copy the graph to `engine_path` and read it once. InputError where PyTorch's form of an operator is not known."""
    import onnx

    from export.program.program import read_program

    check_available_to_run()
    layers = count_products(read_program(onnx.load(onnx_path)).graph)
    partial = engine_path.with_suffix(".partial")
    shutil.copyfile(onnx_path, partial)
    os.replace(partial, engine_path)
    return Engine(engine_path, layers)


def load(engine_path: Path, threads: int) -> TorchRunner:
    """A runner on PyTorch's GPU, or on `threads` CPU threads without one."""
    import onnx

    from export.program.program import read_program

    check_available_to_run()
    proto, device = onnx.load(engine_path), device_here()
    module = read_program(proto).module().to(device)

    def compute(images: "Tensor") -> "Sequence[torch.Tensor]":
        found = module(images)
        return found if isinstance(found, list | tuple) else [found]

    return TorchRunner(compute, *describe_graph(proto, None), device, threads)
