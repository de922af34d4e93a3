"""2:4 sparsity: modelopt's own mask, along the axis that engines read it, and a graph that still computes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from calib.errors import InputError
from calib.images import read_split
from calib.precision.policy import WEIGHT_OPERATORS
from calib.preprocess import Preprocess, load_batch
from export.engines import onnxruntime_backend
from export.graph.layers import read_layers
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.sparsify import is_24, mask_24, read_sparse, sparsify_24
from export.simplify import simplify_onnx


class Network(nn.Module):
    """A stem that is too narrow to prune, a grouped convolution, tokens, an MLP and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, stride=8)
        self.conv, self.grouped = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.conv(self.stem(x))))).flatten(2).transpose(1, 2)  # B 16 32
        x = x + self.fc2(torch.relu(self.fc1(x)))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def images(image_root: Path, spec: Preprocess) -> np.ndarray:
    return load_batch(list(read_split(image_root, "val").paths)[:6], spec)


@pytest.fixture(scope="module")
def graph(network: nn.Module, spec: Preprocess, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    export_onnx(network, spec, [str(index) for index in range(16)], folder / "raw.onnx")
    assert simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images[:2]).accepted
    return folder / "fp32.onnx"


def weight_layers(proto: onnx.ModelProto) -> dict[str, str]:
    """Node name by module of the layers with a weight."""
    layers = [layer for layer in read_layers(proto) if layer.operator in WEIGHT_OPERATORS and layer.weight_shape]
    return {layer.module: layer.name for layer in layers}


def weight(proto: onnx.ModelProto, name: str) -> np.ndarray:
    node = next(node for node in proto.graph.node if node.name == name)
    return next(numpy_helper.to_array(each) for each in proto.graph.initializer if each.name == node.input[1])


@pytest.mark.slow
def test_mask_equals_modelopts(network: nn.Module, graph: Path) -> None:
    """On every layer that modelopt prunes: Linear along its input, Conv along C for each kernel position, grouped too."""
    import copy

    import modelopt.torch.sparsity as mts

    theirs = mts.sparsify(copy.deepcopy(network), "sparse_magnitude")
    proto = onnx.load(graph)
    names = weight_layers(proto)
    assert set(names) >= {"stem", "conv", "grouped", "fc1", "fc2", "head"}
    sparse, layers = sparsify_24(proto, [names[module] for module in ("conv", "grouped", "fc1", "fc2", "head")])
    assert all(layer.zeros == 0.5 and not layer.reason for layer in layers)
    for module in ("conv", "grouped", "fc1", "fc2", "head"):
        expected = theirs.get_submodule(module).weight.detach().numpy()
        ours = weight(sparse, names[module])
        if module.startswith("fc"):  # MatMul's constant is (in, out)
            ours = ours.T
        assert (expected == 0).mean() == 0.5, f"modelopt did not prune {module}"
        np.testing.assert_array_equal(ours, expected, err_msg=module)


def test_the_graph_computes_what_pytorch_does_with_these_weights(
    network: nn.Module, graph: Path, spec: Preprocess, images: np.ndarray, tmp_path: Path
) -> None:
    import copy

    proto = onnx.load(graph)
    names = weight_layers(proto)
    sparse, _ = sparsify_24(proto, [names["conv"], names["fc1"]])
    onnx.save(sparse, tmp_path / "sparse.onnx")
    pruned = copy.deepcopy(network)
    for module in (pruned.conv, pruned.fc1):
        mask = mask_24(module.weight.detach().numpy(), 1)
        module.weight.data.mul_(torch.from_numpy(mask))
    x = (torch.from_numpy(images).float().permute(0, 3, 1, 2) / 255 - spec.mean[0]) / spec.std[0]
    with torch.inference_mode():
        expected, dense = pruned(x).numpy(), network(x).numpy()
    with onnxruntime_backend.load(tmp_path / "sparse.onnx", 1) as runner:
        logits = runner.infer({INPUT: images})[OUTPUT]
    difference = np.abs(logits - expected)
    assert difference.max() < 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    assert np.abs(logits - dense).max() > 1e-3, "nothing was pruned"


def test_only_the_named_layers_change_and_the_report_sees_which(graph: Path) -> None:
    proto = onnx.load(graph)
    names = weight_layers(proto)
    assert not any(read_sparse(proto).values()) and set(read_sparse(proto)) == set(names.values())
    sparse, layers = sparsify_24(proto, {names["fc1"], names["stem"]})
    assert read_sparse(sparse) == {name: name == names["fc1"] for name in names.values()}
    by_name = {layer.name: layer for layer in layers}
    assert "3 input channels are not a multiple of 4" in by_name[names["stem"]].reason
    assert by_name[names["fc1"]].to_dict() == {
        "name": names["fc1"], "weight_shape": [32, 64], "zeros": 0.5, "reason": "",
    }  # fmt: skip
    assert sum(each.ByteSize() for each in sparse.graph.initializer) < 1.01 * sum(
        each.ByteSize() for each in proto.graph.initializer
    ), "the dense weight is still in the graph"
    assert not any(read_sparse(proto).values()), "the graph that was given changed"


@pytest.mark.parametrize("shape", [(8, 4), (4, 8, 3, 3), (3, 12, 5)])
def test_mask_keeps_the_most_of_each_four(shape: tuple[int, ...]) -> None:
    """Against every one of the six patterns, group by group; and along one axis only."""
    from itertools import combinations

    values = np.random.default_rng(0).standard_normal(shape)
    mask = mask_24(values, 1)
    assert mask.shape == shape and is_24(values * mask, 1) and not is_24(values, 1)
    kept = np.moveaxis(np.abs(values) * mask, 1, -1).reshape(-1, 4).sum(1)
    groups = np.moveaxis(np.abs(values), 1, -1).reshape(-1, 4)
    best = np.max([groups[:, list(pair)].sum(1) for pair in combinations(range(4), 2)], axis=0)
    np.testing.assert_allclose(kept, best)


def test_the_pattern() -> None:
    assert is_24(np.array([[1, 0, 2, 0, 0, 0, 0, 3]]), 1) and is_24(np.zeros((2, 4)), 1)
    assert not is_24(np.array([[1, 0, 2, 5, 0, 0, 0, 0]]), 1), "three of four"
    assert not is_24(np.array([[0, 0, 0, 1, 1, 1, 0, 0]]).T, 1), "no multiple of 4"
    assert is_24(np.array([[0, 0, 1, 1, 1, 1, 0, 0]]), 1) and not is_24(np.ones((4, 4)), 0)
    np.testing.assert_array_equal(mask_24(np.array([[1.0, -1, 1, -1]]), 1), [[True, True, False, False]])
    with pytest.raises(ValueError, match="not a multiple of 4"):
        mask_24(np.ones((2, 6)), 1)


@pytest.mark.parametrize("dtype", [TensorProto.INT8, TensorProto.INT4])
def test_quantized_weights_are_read_through_their_dequantization(dtype: int) -> None:
    """As a quantized graph stores them: integers and a DequantizeLinear, the zeros still zeros."""
    rows = [[3, 0, 0, -2], [0, 5, 0, 1]]
    stored = helper.make_tensor("q", dtype, [4, 2], np.array(rows).T.ravel().tolist())
    steps = helper.make_tensor("step", TensorProto.FLOAT, [2], [0.5, 0.25])
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "step"], ["w"], "dq", axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
        helper.make_node("MatMul", ["x", "x"], ["z"], "attention"),
    ]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, size]) for name, size in (("x", 4), ("y", 2))]
    proto = helper.make_model(helper.make_graph(nodes, "quantized", sides[:1], sides[1:], [stored, steps]))
    assert read_sparse(proto) == {"product": True}
    stored.CopyFrom(helper.make_tensor("q", dtype, [4, 2], [1] * 8))
    proto.graph.initializer[0].CopyFrom(stored)
    assert read_sparse(proto) == {"product": False}


def test_wrong_layers_are_refused(graph: Path) -> None:
    proto = onnx.load(graph)
    names = weight_layers(proto)
    relu = next(node.name for node in proto.graph.node if node.op_type == "Relu")
    for wrong in ("node_99999", relu):
        with pytest.raises(ValueError, match=f"not layers with a constant weight: {wrong}"):
            sparsify_24(proto, [names["fc1"], wrong])
    for chosen in ([names["stem"]], []):
        with pytest.raises(InputError, match="found no layer it can prune"):
            sparsify_24(proto, chosen)
