"""Whether a graph that an exporter wrote computes its network, on random images."""

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import nn

from calib.precision.closeness import compare_logits
from export.runner import INPUT, OUTPUT


def compute(
    proto: onnx.ModelProto, network: nn.Module, batch: int, image: tuple[int, ...], names: Sequence[str] = (), *,
    one_by_one: bool = False,
) -> dict[str, NDArray[np.generic]]:  # fmt: skip
    """The tensors `names` of the graph for `batch` random uint8 images (H, W, 3), computed at once or `one_by_one`.

    ValueError where the logits are not those that `network` (uint8 (B, H, W, 3) → logits; eval mode) has for the batch.
    """
    import onnxruntime

    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    given = {output.name for output in tapped.graph.output}
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *image), dtype=np.uint8)
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    parts = np.split(pixels, batch) if one_by_one else [pixels]
    runs = [session.run([OUTPUT, *names], {INPUT: part}) for part in parts]
    with torch.no_grad():
        closeness = compare_logits(network(torch.from_numpy(pixels)).numpy(), np.concatenate([run[0] for run in runs]))
    if not closeness.near:
        raise ValueError(f"its graph does not compute the network for a batch of {batch}: {closeness}")
    return dict(zip(names, runs[0][1:], strict=True))
