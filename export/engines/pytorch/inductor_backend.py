"""PyTorch's Inductor: the engine is a package that was compiled ahead of time for this machine's CPU or its NVIDIA GPU.

A package is machine code: `export.engines.engine` loads one only with a sidecar that says it was made by this very PyTorch, for
this CPU's instructions or this GPU.
"""

import json
import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from export.cpu import adds_pairs_in_16_bits, bf16_instructions, fp16_instructions
from export.engines.pytorch import runner
from export.engines.pytorch.runner import TorchRunner, describe_graph, device_here
from export.runner import Engine, TensorInfo, Unavailable

if TYPE_CHECKING:
    import onnx
    import torch

ENGINE_NAME = "engine.pt2"
INSTALL, INSTALL_ON_DEVICE = runner.INSTALL, runner.INSTALL_ON_DEVICE
version, check_available_to_run = runner.version, runner.check_available_to_run
_FACTS = "t2t_edge"  # in a package: its inputs and outputs, and its device


def check_available_to_build() -> None:
    """Raise Unavailable without PyTorch or a C++ compiler."""
    check_available_to_run()
    compiler = os.environ.get("CXX", "clang++" if platform.system() == "Darwin" else "g++")
    if shutil.which(compiler) is None:
        raise Unavailable(f"Inductor compiles with {compiler}, which is not here: apt-get install g++")


def gpu_capability() -> str | None:
    """The compute capability of PyTorch's first GPU, `9.0` of an H200; None where it has none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def build(onnx_path: Path, engine_path: Path, *, batch: int = 1, bf16: bool = False) -> Engine:
    """Compile the graph for PyTorch's GPU where it has one, else for this CPU; with `bf16` in BF16 but for what the graph lists.

    On a CPU it is for `batch` images at a time: a free batch made t2t_vit_7 a quarter slower. On a GPU it is free.

    Unavailable for what this CPU has no instructions for; RuntimeError where PyTorch or its compiler fails.
    """
    import onnx

    from export.engines.pytorch.gathers import slice_gathers
    from export.engines.pytorch.integer_products import write_integer_products
    from export.engines.pytorch.layers import count_quantized
    from export.engines.pytorch.package import compile_package
    from export.program.program import read_program

    check_available_to_build()
    proto, device = onnx.load(onnx_path), device_here()
    if device == "cpu":
        _check_cpu(proto, bf16)
    own = batch if device == "cpu" else None
    inputs, outputs = describe_graph(proto, own)
    program = read_program(proto, own, _bf16() if bf16 else None)
    quantized = count_quantized(program.graph)
    slice_gathers(program)
    if device == "cuda":
        write_integer_products(program)
        program = _on_gpu(program)
    facts = {"device": device, "inputs": [asdict(of) for of in inputs], "outputs": [asdict(of) for of in outputs]}
    partial = engine_path.with_name(f"partial-{engine_path.name}")
    layers = compile_package(program, partial, {_FACTS: json.dumps(facts)})
    os.replace(partial, engine_path)
    return Engine(engine_path, layers, _alarm(layers["int8"], quantized))


def _alarm(int8: int, quantized: int) -> dict[str, str]:
    """A note where quantized products did not become INT8 kernels; of none at all, evaluation tells."""
    if not 0 < int8 < quantized:
        return {}
    return {"alarm": f"{quantized - int8} of its {quantized} quantized products became no INT8 kernels of PyTorch"}


def _on_gpu(program: "torch.export.ExportedProgram") -> "torch.export.ExportedProgram":
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, "cuda")


def _bf16() -> "torch.dtype":
    import torch

    return torch.bfloat16


def _check_cpu(proto: "onnx.ModelProto", bf16: bool) -> None:
    """Unavailable where this CPU would compute in a type that it emulates, slower than FP32, or wrong."""
    from onnx import TensorProto

    int8 = any(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    fp16 = any(value.data_type == TensorProto.FLOAT16 for value in proto.graph.initializer)
    if bf16 and not bf16_instructions():
        raise Unavailable("this CPU has no BF16 instructions: neither AVX512_BF16 nor AMX_BF16")
    if fp16 and int8:
        raise Unavailable(
            "on a CPU, PyTorch has INT8 products with FP32 or BF16 around them: int8 or int8-bf16, or a GPU"
        )
    if fp16 and not fp16_instructions():
        raise Unavailable("this CPU has no FP16 instructions: neither AVX512_FP16 nor AMX_FP16")
    if int8 and adds_pairs_in_16_bits():
        raise Unavailable("without byte dot products (VNNI) PyTorch's INT8 products saturate on this CPU")


def load(engine_path: Path, threads: int) -> TorchRunner:
    """A runner on the device that it was compiled for, on `threads` CPU threads if that is the CPU.

    It runs code of the file: only `export.engines.engine.load_engine`, which checks its sidecar, may call this.
    """
    import torch

    check_available_to_run()
    # `torch._inductor.aoti_load_package` would also unpickle what else lies in the file, and look for instructions with g++.
    try:
        package = torch._C._aoti.AOTIModelPackageLoader(str(engine_path), "model", False, 1, -1)
        facts = json.loads(package.get_metadata()[_FACTS])
    except (RuntimeError, KeyError) as error:
        raise RuntimeError(f"PyTorch's Inductor cannot load its package: {error}") from error
    inputs, outputs = (
        tuple(TensorInfo(of["name"], tuple(of["shape"]), of["dtype"]) for of in facts[side])
        for side in ("inputs", "outputs")
    )
    return TorchRunner(lambda images: package.run([images]), inputs, outputs, facts["device"], threads)
