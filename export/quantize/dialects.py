"""How each engine reads a quantized graph: the same decisions and ranges, said in its own way. One table, one row an engine.

docs/quantization.md says what each row gains, and what goes wrong on an engine that gets another's graph.
"""

from dataclasses import dataclass, replace
from typing import Literal

import onnx

from calib.precision.policy import NO_RULES, Rules
from export.forms.rows import normalise_by_rows
from export.forms.token_nodes import token_attentions
from export.forms.windows import write_windows

Activations = Literal["signed", "unsigned where positive", "unsigned", "signed over the range"]


@dataclass(frozen=True)
class Dialect:
    """One row. The default is TensorRT's: symmetric INT8 and biases in floating point.

    `rules` are for decisions. `rows`: the image is normalised by rows. `windows`: soft splits unfold, normalise and multiply,
    instead of a convolution, so that the product can be INT8. `one_scale`: Q, K and V are quantized together, behind their
    product. `activations`: int8, or uint8 with zero point 0 for what is never negative; the rest of it int8, or uint8 with zero
    point 128; or int8 from the lowest number seen to the highest. `int32_biases`: those of convolutions and Gemms as INT32
    behind a DequantizeLinear. `behind_activation`: a quantized output is quantized behind the bias and the ReLU that follow.
    `fp16_scales`: scales are to be FP16's numbers too.
    """

    rules: Rules = NO_RULES
    rows: bool = False
    windows: bool = False
    one_scale: bool = False
    activations: Activations = "signed"
    int32_biases: bool = False
    behind_activation: bool = False
    fp16_scales: bool = True

    def form(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """The floating-point graph that this engine's Q/DQ go into; nodes outside the soft splits keep their names."""
        return self.of_measured(self.measured_form(proto))

    def measured_form(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """The graph with the activations of `form`, in which their ranges are measured; `proto` itself where they are its own."""
        return write_windows(proto) if self.windows else proto

    def of_measured(self, measured: onnx.ModelProto) -> onnx.ModelProto:
        """`form`, of the graph that `measured_form` gave."""
        return normalise_by_rows(measured) if self.rows else measured

    def left_as_exported(self, form: onnx.ModelProto) -> list[str]:
        """The modules whose soft split is no windows in a graph of this form, because it is not written as ours."""
        return [module for module, _ in token_attentions(form)] if self.windows else []

    def trained(self) -> "Dialect":
        """The same for a network that was trained with quantization: nothing in INT8 that it was not trained for, as far as
        the engine's kernels allow."""
        return replace(self, windows=False, one_scale=False, rules=replace(self.rules, best="weights"))


PLAIN = Dialect()
DIALECTS: dict[str, Dialect] = {
    "openvino": Dialect(
        Rules(best="+attention", any_head=True, any_convolution=True, sums=True, float_kernel=True),
        windows=True, one_scale=True, activations="unsigned where positive", behind_activation=True, fp16_scales=False,
    ),
    "onnxruntime": Dialect(
        Rules(any_convolution=True, sums=True, outputs="convolutions"), rows=True, activations="unsigned", int32_biases=True,
        behind_activation=True, fp16_scales=False,
    ),
    "executorch": Dialect(
        Rules(any_convolution=True, sums=True, outputs="weight layers"), activations="signed over the range",
        int32_biases=True, behind_activation=True, fp16_scales=False,
    ),
    "inductor": Dialect(
        Rules(any_convolution=True, sums=True, outputs="convolutions"), windows=True, activations="unsigned",
        behind_activation=True, fp16_scales=False,
    ),
    "pytorch": PLAIN,
    "tensorrt": PLAIN,
    "tensorrt_rtx": PLAIN,
}  # fmt: skip
