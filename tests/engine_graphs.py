"""Graphs of a model in every precision, and what TensorRT-RTX makes of them: for `make prove` and for the tests.

Weights are random: which kernels an engine has does not depend on their values, but for a bias of zeros, which would be
dropped, so vectors get noise. Images are the embedded photographs enlarged.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import timm
import torch
from literal import literal
from torch import nn

import models  # noqa: F401  (registers the models)
from calib.calibration import CalibrationSet
from calib.precision.policy import TOKEN_ATTENTIONS, WEIGHT_OPERATORS, PolicyName
from calib.preprocess import Preprocess
from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.engines.tensorrt.layers import EngineGraph
from export.graph.layers import count_precisions, read_layers, tensor_shapes
from export.graph.roles import QDQ, attention_products
from export.onnx_export import CLASS_KEY, MODULE_KEY, export_onnx, node_metadata
from export.quantize.cast_fp16 import cast_fp16
from export.quantize.gpu_graph import write_gpu_graph
from export.quantize.int8 import QuantizeOptions, apply_policy, write_quantized
from export.quantize.qdq import to_fp8
from export.simplify import simplify_onnx
from models import fpn_resnet
from models.t2t_vit import VARIANTS, T2TViT
from models.zoo import FAMILY, SEGMENTATION

POLICY: dict[str, PolicyName] = {"int8": "weights", "int8+attention": "+attention", "fp8": "weights"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
QKV = "attn.qkv.weight"
FUSED_HEAD_DIMS = range(9, 257)  # of TensorRT-RTX 1.7.1 in FP16
BY_ITSELF = "LayerNormalization"  # whose statistics engines keep in FP32 between two kernels


def build_network(name: str, depth: int | None = None) -> nn.Module:
    """A model with random weights, no zeros among its vectors and attentions that prefer some tokens (softmax over 0.008:
    anything fainter is not quantized); `depth` leaves out blocks at the end."""
    torch.manual_seed(0)
    size = {"img_size": image_size(name)} if name in (*FAMILY, *SEGMENTATION) else {}
    model = timm.create_model(name, num_classes=count_classes(name), **size).eval()
    if depth is not None:
        model.blocks = model.blocks[:depth]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif name.endswith(QKV):
                parameter.mul_(5)
    return model


def image_size(name: str) -> int:
    """Pixels per side: 224, and what the demo's networks take."""
    if name in fpn_resnet.VARIANTS:
        return min(fpn_resnet.VARIANTS[name].image_size, 224)
    return VARIANTS[name].image_size if name in VARIANTS else 224


def count_classes(name: str) -> int:
    """ImageNet's, and Pascal VOC's 20 objects and background where every pixel has its logits: 1000 would be 200 MB an image."""
    return 21 if name in SEGMENTATION else 1000


def photographs(path: Path, size: int, count: int = 4) -> CalibrationSet:
    """A few of the embedded photographs, enlarged, uint8 (count, size, size, 3)."""
    with np.load(path, allow_pickle=False) as stored:
        grey = stored["val_images"][:count]
    images = np.stack([cv2.resize(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), (size, size)) for image in grey])
    return CalibrationSet(images, np.zeros(count, np.int64))


def export_network(model: nn.Module, path: Path, calibration: CalibrationSet) -> onnx.ModelProto:
    """The FP32 graph, simplified, as the export stage writes it."""
    height, width = calibration.images.shape[1:3]
    classes = [f"c{i}" for i in range(model.num_classes)]
    export_onnx(model, Preprocess(height, width, 0.9, "bicubic", *IMAGENET), classes, path)
    result = simplify_onnx(path, path, calibration.first(2))
    assert result.accepted, result.reason
    return onnx.load(path)


def write_literal(model: nn.Module, path: Path, calibration: CalibrationSet) -> None:
    """The FP16 graph of the literal twin (nn.Unfold, upstream's performer), nothing pinned: what the layers are held against."""
    assert isinstance(model, T2TViT)
    export_network(literal(model), path, calibration)
    cast_fp16(path, path, calibration, [])


def write_precision(proto: onnx.ModelProto, precision: str, path: Path, calibration: CalibrationSet) -> None:
    """The graph of one of `PRECISIONS`, written as the quantize stage writes those for GPUs."""
    if precision == "fp16":
        write_gpu_graph(proto, path, calibration, set())
        return
    fp8, policy = precision == "fp8", POLICY[precision]
    found = apply_policy(proto, calibration, QuantizeOptions(policy=policy))
    names = {decision.layer.name for decision in found.decisions if decision.int8}
    quantized = write_quantized(proto, found, weights="as they are" if fp8 else "on grid")
    write_gpu_graph(quantized, path, calibration, names)
    if fp8:
        onnx.save(to_fp8(onnx.load(path)), path)


def count_attentions(proto: onnx.ModelProto) -> int:
    """The attentions of a graph."""
    return sum(layer.role == "scores" for layer in read_layers(proto))


def count_fusable(proto: onnx.ModelProto) -> int:
    """Those of them that TensorRT has a fused kernel for: an axis of heads, keys of `FUSED_HEAD_DIMS`, values as wide.

    How many queries and keys there are does not matter. The token attentions of VT-ResNets and VT-FPNs have no axis of heads: at
    batch 1 none is fused, and with a free batch, which is then the axis, it is for the builder to choose.
    """
    shapes = tensor_shapes(proto)
    return sum(
        len(shapes.get(scores.output[0], ())) == 4
        and shapes.get(scores.input[0], (0,))[-1] in FUSED_HEAD_DIMS
        and shapes[scores.input[0]][-1] == shapes.get(context.input[1], (0,))[-1]
        for scores, context in attention_products(proto)
    )


def build_row(path: Path, target: str, batch_sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Build a graph ahead of time and describe the engine; raises what the backend does.

    What the network has, `attentions_in_graph` and `attentions_fusable`, is counted in its exported graph and added by who
    asks: Q/DQ hide shapes.
    """
    started = time.perf_counter()
    plan = path.with_suffix(".plan")
    engine = tensorrt_rtx_backend.build(path, plan, batch_sizes=batch_sizes, target=target)
    seconds = time.perf_counter() - started
    graph = engine.notes["graph"]
    assert graph is not None and engine.layers is not None, "the layer report was not understood"
    proto = onnx.load(path)
    row: dict[str, Any] = {"entries": graph.entries, "kernels": graph.kernels, "attentions": graph.attentions}
    row |= {"fp32": len(graph.fp32), "products": engine.layers, "products_in_graph": count_precisions(proto)}
    row |= {"scaling": count_scaling(proto, graph), "resizes": count_resizes(proto, graph)}
    row["islands"] = find_islands(proto, graph.fp32)
    row |= {"seconds": round(seconds, 1), "megabytes": round(plan.stat().st_size / 1e6, 2)}
    plan.unlink()
    return row


def count_scaling(proto: onnx.ModelProto, graph: EngineGraph) -> int:
    """The kernels that Q/DQ cost: between products, and they only scale, quantize and add a bias."""
    kinds = {node.name: node.op_type for node in proto.graph.node}
    found = [{kinds[name] for name in names if name in kinds} for names in graph.generated]
    return sum(bool(kind & set(QDQ)) and kind <= {*QDQ, *WEIGHT_OPERATORS} for kind in found)


def count_resizes(proto: onnx.ModelProto, graph: EngineGraph) -> dict[str, int]:
    """Up-samplings that are a kernel of their own (`alone`, which may cast, too), and those inside another (`fused`)."""
    kinds = {node.name: node.op_type for node in proto.graph.node}
    found = [[kinds[name] for name in names if name in kinds] for names in graph.nodes]
    counts = Counter({"alone": 0, "fused": 0})
    for kind in found:
        counts["alone" if set(kind) <= {"Resize", "Cast"} else "fused"] += kind.count("Resize")
    return dict(counts)


def find_islands(proto: onnx.ModelProto, fp32: tuple[tuple[str, ...], ...]) -> list[str]:
    """Modules of the kernels that take FP32 and are neither a token performer's nor the second half of a LayerNorm."""
    nodes = {node.name: node for node in proto.graph.node}
    islands: list[str] = []
    for names in fp32:
        found = [nodes[name] for name in names if name in nodes]
        pinned = any(node_metadata(node, CLASS_KEY).split()[-1:] == [TOKEN_ATTENTIONS[0]] for node in found)
        if not pinned and not any(node.op_type == BY_ITSELF for node in found):
            islands += sorted({node_metadata(node, MODULE_KEY) or node.name for node in found})
    return islands


def broken_promises(row: dict[str, Any], precision: str) -> list[str]:
    """What an engine should be and is not."""
    broken = []
    kind = precision.removesuffix("+attention")
    if not row["products"].get(kind):
        broken.append(f"no product in {kind}")
    # Rows of before do not have it. In FP8 the 7×7 convolution of three colours is computed in FP16.
    asked = row.get("products_in_graph", {}).get("int8", 0) if kind == "int8" else 0
    if row["products"].get("int8", 0) < asked:
        broken.append(f"{row['products'].get('int8', 0)} of {asked} products in int8")
    if sum(row["attentions"].values()) < row["attentions_fusable"]:
        broken.append(f"{sum(row['attentions'].values())} of {row['attentions_fusable']} attentions fused")
    if row["islands"]:
        broken.append(f"FP32 in {', '.join(row['islands'][:3])}")
    return broken
