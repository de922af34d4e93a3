"""Networks compiled by Inductor: logits against ONNX Runtime node by node, and what their products compute in."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch_engines import Engines, own_images

from export.engines import onnxruntime_backend
from export.engines.engine import load_engine
from export.engines.pytorch import inductor_backend
from export.engines.pytorch.inductor_backend import build
from export.faults.rounding import snr_db
from export.onnx_export import INPUT, OUTPUT
from export.runner import Unavailable

pytestmark = pytest.mark.slow
# Network and precision: its products in INT8, in BF16 and in FP32, and how near its logits are to its graph's, dB.
ENGINES = [
    ("t2t_vit_mini", "fp32", {"int8": 0, "fp16": 0, "fp32": 28}, 100),
    ("t2t_vit_mini", "int8", {"int8": 14, "fp16": 0, "fp32": 12}, 30),
    ("t2t_vit_mini", "int8-bf16", {"int8": 14, "fp16": 0, "bf16": 4, "fp32": 8}, 25),
    ("test_vit", "int8", {"int8": 5, "fp16": 0, "fp32": 3}, 30),
    ("test_resnet", "int8", {"int8": 15, "fp16": 0, "fp32": 1}, 30),
]


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    """What a graph computes, node by node."""
    with onnxruntime_backend.load(path, 1, literal=True) as runner:
        return np.asarray(runner.infer({INPUT: images})[OUTPUT])


@pytest.mark.parametrize(
    ("name", "precision", "layers", "least"), ENGINES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_engine_computes_its_graph_by_kernels_of_its_precision(
    engines: Engines, photos: np.ndarray, name: str, precision: str, layers: dict[str, int], least: float
) -> None:
    images = own_images(photos, name)
    sidecar, runner = load_engine(engines.folder(name, precision), 1)
    assert sidecar.layers == layers and sidecar.notes is None
    with runner:
        assert runner.inputs[0].shape == (1, *images.shape[1:]) and runner.inputs[0].dtype == "uint8"
        assert runner.outputs[0].name == OUTPUT and runner.outputs[0].dtype == "float32"
        found = runner.infer({INPUT: images})[OUTPUT]
    snr = snr_db(logits(engines.graph(name, precision), images), found)
    print(name, precision, sidecar.layers, snr)
    assert snr > least


def test_it_computes_on_the_threads_of_its_own_and_leaves_the_process_s(engines: Engines, photos: np.ndarray) -> None:
    before = torch.get_num_threads()
    _, runner = load_engine(engines.folder("t2t_vit_mini", "int8"), before + 1)
    seen = []
    with runner:
        compute = runner._compute  # type: ignore[attr-defined]
        runner._compute = lambda images: (seen.append(torch.get_num_threads()), compute(images))[1]  # type: ignore[attr-defined]
        runner.infer({INPUT: own_images(photos, "t2t_vit_mini")[:1]})
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_what_it_unpacks_to_load_is_gone_with_its_runner(engines: Engines) -> None:
    before = mapped()
    _, runner = load_engine(engines.folder("t2t_vit_mini", "fp32"), 1)
    (unpacked,) = mapped() - before
    assert unpacked.is_file()
    with runner:
        pass
    assert not unpacked.exists()


def mapped() -> set[Path]:
    """The packages' libraries in this process."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {Path(line.split()[-1]) for line in lines if line.endswith(".wrapper.so")}


@pytest.mark.parametrize(
    ("bf16", "operator", "dtype", "missing", "message"),
    [
        (True, "Relu", TensorProto.FLOAT, "bf16_instructions", "no BF16 instructions"),
        (False, "Relu", TensorProto.FLOAT16, "fp16_instructions", "no FP16 instructions"),
        (False, "DequantizeLinear", TensorProto.FLOAT16, "", "INT8 products with FP32 or BF16 around them"),
        (False, "DequantizeLinear", TensorProto.FLOAT, "int8", "saturate on this CPU"),
    ],
)  # fmt: skip
def test_what_a_cpu_would_emulate_or_compute_wrong_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool, operator: str, dtype: int, missing: str, message: str
) -> None:
    monkeypatch.setattr(inductor_backend, "device_here", lambda: "cpu")
    for name in ("bf16_instructions", "fp16_instructions"):
        monkeypatch.setattr(inductor_backend, name, lambda name=name: [] if name == missing else ["some"])
    monkeypatch.setattr(inductor_backend, "adds_pairs_in_16_bits", lambda: missing == "int8")
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])], "one node", [], [], [helper.make_tensor("x", dtype, [1], [0.0])]
    )
    onnx.save(helper.make_model(graph), tmp_path / "graph.onnx")
    with pytest.raises(Unavailable, match=message):
        build(tmp_path / "graph.onnx", tmp_path / "engine.pt2", bf16=bf16)


def test_without_a_compiler_it_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unavailable, match="no-such-compiler, which is not here: apt-get install g"):
        inductor_backend.check_available_to_build()
    inductor_backend.check_available_to_run()


def test_quantized_products_that_became_no_kernels_are_an_alarm() -> None:
    assert inductor_backend._alarm(3, 5) == {"alarm": "2 of its 5 quantized products became no INT8 kernels of PyTorch"}
    assert inductor_backend._alarm(5, 5) == inductor_backend._alarm(0, 0) == {}
    assert inductor_backend._alarm(0, 5) == {}, "evaluation says that of every backend"


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "precision"), [(name, precision) for name, precision, *_ in ENGINES if "vit" in name])
def test_on_a_gpu(engines: Engines, photos: np.ndarray, name: str, precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no NVIDIA GPU here")
    images = own_images(photos, name)
    sidecar, runner = load_engine(engines.folder(name, precision), 1)
    with runner:
        assert runner.inputs[0].shape == (None, *images.shape[1:])
        found = runner.infer({INPUT: images})[OUTPUT]
    least = 40 if precision == "fp32" else 20  # TF32 in cuBLAS's convolutions
    assert snr_db(logits(engines.graph(name, precision), images), found) > least
    assert sidecar.compute_capability is not None and ("int8" in precision) == (sidecar.layers["int8"] > 0)
