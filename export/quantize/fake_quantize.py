"""Put nvidia-modelopt's fake quantizers into a PyTorch network where a policy quantizes its exported graph.

A quantizer rounds to the grid that Q/DQ will have and lets the gradient through. Activations: per tensor, 8 bits, −128
to 127, as QuantizeLinear rounds. Weights: per output channel, 8 bits −127 to 127 or 4 bits −7 to 7. Modelopt computes
round(x · (127 / amax)) / (127 / amax) where ONNX computes round(x / (amax / 127)) · (amax / 127): the same integers but
for values within a float32 rounding of a tie, and the same values within two float32 roundings.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calib.precision.policy import Decision
from calib.preprocess import Preprocess
from export.graph.calls import Call, Follower, Kind, Operands, record_calls
from export.quantize.placement import (
    Floats,
    Placement,
    Site,
    channel_axis,
    channels_first,
    place,
    read_gain,
    takes_bias,
)
from export.quantize.qdq import weight_range
from export.quiet import quiet

if TYPE_CHECKING:
    from modelopt.torch.quantization.nn import TensorQuantizer

CHECKED_IMAGES = 4  # on which placement is proved


class FakeQuantized(nn.Module):
    """A network that computes what its quantized graph will: normalised images (B, C, H, W) → logits.

    It stays in eval mode in training: no dropout, fixed batch-norm statistics, as it is exported. `model` is the network
    itself, its weights under their own names; the quantizers are beside it.
    """

    def __init__(
        self, model: nn.Module, placement: Placement, calls: Mapping[int, Call], amax: Mapping[str, float],
        weight_bits: int,
    ):  # fmt: skip
        """`amax` holds the range of every activation, by the graph's tensor; `calls` are those that were placed."""
        super().__init__()
        self.model = model
        self.placement, self.weight_bits = placement, weight_bits
        self.quantizers = nn.ModuleDict()
        self._sites = {site.call: site for site in placement.sites}
        self._parameters_of = {
            site.call: name for site in placement.sites
            if site.weight is not None and channel_axis(calls[site.call], site.weight) == 0
            and (name := calls[site.call].parameter) is not None
        }  # fmt: skip
        for site in placement.sites:
            for operand, point in site.inputs.items():
                self.quantizers[_key(site.call, operand)] = _activation_quantizer(amax[point.tensor] / point.ratio)
            if site.output is not None:
                self.quantizers[_key(site.call, "out")] = _activation_quantizer(amax[site.output.tensor])
            if site.weight is not None:
                call, weight = calls[site.call], calls[site.call].constants[site.weight]
                if site.spread is not None:
                    weight = weight / _colours(site.spread, weight)
                quantizer = _weight_quantizer(weight, channel_axis(call, site.weight), weight_bits)
                self.quantizers[_key(site.call, site.weight)] = quantizer
        self.train(False)

    def train(self, mode: bool = True) -> "FakeQuantized":
        """Eval mode, whatever is asked."""
        super().train(False)
        return self

    def no_weight_decay(self) -> set[str]:
        """The network's own, under the names they have in here."""
        named = self.model.no_weight_decay() if hasattr(self.model, "no_weight_decay") else set()  # type: ignore[operator]
        return {f"model.{name}" for name in named}

    def forward(self, images: Tensor) -> Tensor:
        follower = Follower(self)
        with follower:
            logits: Tensor = self.model(images)
        if follower.count != self.placement.calls:
            raise RuntimeError(
                f"the network made {follower.count} products and sums, {self.placement.calls} when it was looked at: "
                "what it computes depends on its input, so fake quantizers cannot be placed"
            )
        return logits

    def wants(self, call: int) -> bool:
        """Whether something of this call is quantized."""
        return call in self._sites

    def operands(self, call: int, kind: Kind, values: Operands, scale: float) -> Operands:
        """Both operands, quantized where the site says so."""
        spread = self._sites[call].spread
        if spread is None:
            return self._quantized(_key(call, 0), values[0]), self._quantized(_key(call, 1), values[1])
        factor = _colours(spread, values[0])
        return (
            self._quantized(_key(call, 0), values[0] * factor) / factor,
            self._quantized(_key(call, 1), values[1] / factor) * factor,
        )

    def result(self, call: int, value: Tensor, *, biased: bool) -> Tensor:
        """The result, quantized where the site says so: with its bias or before, as the graph's node gives it."""
        if self._sites[call].output is None or biased != takes_bias(self._sites[call].layer):
            return value
        return self._quantized(_key(call, "out"), value)

    def weight_amax(self, site: Site) -> Floats:
        """The range of each output channel of the network's weight, (channels,)."""
        amax: Tensor = self._weight_quantizer(site).amax
        return amax.detach().float().cpu().numpy().reshape(-1)

    @torch.no_grad()
    def snap_weights(self) -> int:
        """Put every quantized weight that is a parameter onto its grid, amax/127 (or amax/7) times an integer.

        The network computes the same afterwards, and whoever quantizes the weight with this range gets these integers,
        whatever the order of their arithmetic. Returns the number of weights snapped.
        """
        bound = 2 ** (self.weight_bits - 1) - 1
        parameters = dict(self.model.named_parameters())
        for call, name in self._parameters_of.items():
            weight, site = parameters[name], self._sites[call]
            factor = 1.0 if site.spread is None else _colours(site.spread, weight)
            amax = torch.from_numpy(self.weight_amax(site)).to(weight.device).view(-1, *[1] * (weight.ndim - 1))
            scale = torch.where(amax > 0, amax / bound, 1.0)
            quantizer = self._weight_quantizer(site)
            rows = (weight / factor).reshape(len(weight), *[1] * (quantizer.amax.ndim - 2), -1)  # as its amax is shaped
            weight.copy_((quantizer(rows).view_as(weight) / scale).round() * scale * factor)
        return len(self._parameters_of)

    def _quantized(self, key: str, value: Tensor) -> Tensor:
        return self.quantizers[key](value) if key in self.quantizers else value

    def _weight_quantizer(self, site: Site) -> Any:
        assert site.weight is not None
        return self.quantizers[_key(site.call, site.weight)]


def look(
    model: nn.Module, proto: onnx.ModelProto, decisions: Sequence[Decision], images: NDArray[np.uint8],
    normalised: Tensor, spec: Preprocess,
) -> tuple[Placement, dict[int, Call]]:  # fmt: skip
    """Run `model` on `images` (n, H, W, 3), and `normalised`, the same as it takes them, and find what `decisions` quantize."""
    calls, count = record_calls(_frozen(model), normalised)
    spread = 255 * np.asarray(spec.std, dtype=np.float32)
    placement = place(proto, decisions, calls, count, images, spread)
    return placement, {site.call: calls[site.call] for site in placement.sites}


def weight_ranges(student: FakeQuantized, proto: onnx.ModelProto, normalised: Tensor) -> dict[str, Floats]:
    """The range of each output channel of the weights in the graph `proto` of the trained student, by node.

    The student's own, times what a folded batch norm multiplies the channel with. RuntimeError where the graph's weight is
    not the student's.
    """
    calls, _ = record_calls(_frozen(student.model), normalised)
    nodes = {node.name: node for node in proto.graph.node}
    stored = {value.name: value for value in proto.graph.initializer}
    found: dict[str, Floats] = {}
    for site in student.placement.sites:
        if site.weight is None:
            continue
        node = nodes[site.layer.name]
        ours = channels_first(calls[site.call], site.weight, site.spread)
        gain = read_gain(node, site.layer, stored[node.input[site.weight]], ours)
        found[site.layer.name] = student.weight_amax(site) * np.abs(gain)
    return found


def _frozen(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)


def _colours(spread: Floats, like: Tensor) -> Tensor:
    """(1, colours, 1, 1): the same place in a map and in a convolution's weight."""
    return torch.from_numpy(spread).to(like.device).view(1, -1, 1, 1)


def _key(call: int, place: int | str) -> str:
    return f"call{call}_{place}"


def _activation_quantizer(amax: float) -> "TensorQuantizer":
    return _quantizer(torch.tensor(amax), 8, narrow_range=False)


def _weight_quantizer(weight: Tensor, axis: int, bits: int) -> "TensorQuantizer":
    """With the range that quantization after training gives the same weight, so that training is all that differs."""
    amax = torch.from_numpy(weight_range(weight.detach().float().cpu().numpy(), axis, bits))
    shape = [1] * weight.ndim
    shape[axis] = -1
    return _quantizer(amax.to(weight.device).view(shape), bits, narrow_range=True)


def _quantizer(amax: Tensor, bits: int, *, narrow_range: bool) -> "TensorQuantizer":
    with quiet():
        from modelopt.torch.quantization.config import QuantizerAttributeConfig
        from modelopt.torch.quantization.nn import TensorQuantizer

    quantizer = TensorQuantizer(QuantizerAttributeConfig(num_bits=bits, narrow_range=narrow_range))
    quantizer.amax = amax.float()
    return quantizer
