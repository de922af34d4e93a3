"""What a brought network takes and gives: its image input, its batch, and the tensor that holds the classes' logits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from onnx import TensorProto

from calib.errors import InputError
from calib.preprocess import Preprocess

Layout = Literal["uint8 NHWC", "NCHW", "NHWC"]
_FLOAT, _UINT8 = TensorProto.FLOAT, TensorProto.UINT8


@dataclass(frozen=True)
class Interface:
    """`input` takes images in this `layout`; `batch` of them, any number where it is None.

    `logits` has a row of class scores for each image, or of maps of `sides`, (H, W): the output, or what a softmax makes the
    output of.
    """

    input: str
    layout: Layout
    batch: int | None
    logits: str
    sides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Images:
    """Height and width in pixels, and channels, of the images that a brought network takes; None where its file says none."""

    height_width: tuple[int, int] | None
    channels: int | None


def read_images(proto: onnx.ModelProto, path: Path) -> Images:
    """InputError where the network has no input for images."""
    _, kind, shape, _ = _image_input(proto, path)
    channels, (height, width) = _channels_and_sides(kind, shape)
    return Images((height, width) if height and width else None, channels if channels in (1, 3) else None)


def read_interface(
    proto: onnx.ModelProto, path: Path, spec: Preprocess, classes: int | None, output: int | str | None,
    sides: tuple[int, ...] = (),
) -> Interface:  # fmt: skip
    """InputError unless the network takes images of `spec` and gives a logit for each of `classes` classes, if they are known.

    `output` is the recipe's `model.output`: which one, where there are several, by name or place. With `sides`, (H, W), every
    pixel of so many has logits of its own.
    """
    name, layout, batch = _read_input(proto, path, spec)
    return Interface(name, layout, batch, _read_output(proto, path, classes, output, sides), sides)


def _image_input(proto: onnx.ModelProto, path: Path) -> tuple[str, int, tuple[int, ...], str]:
    """Name, type and shape of the only input, and all three as text."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise InputError(
            f"{path} has {len(inputs)} inputs", got=", ".join(value.name for value in inputs) or "none",
            allowed="one input, for images", next_step="export the network with the images as its only input",
        )  # fmt: skip
    kind, shape = inputs[0].type.tensor_type.elem_type, _shape(inputs[0])
    text = f"{inputs[0].name}: {_kind(kind)} {_text(shape)}"
    if kind not in (_FLOAT, _UINT8) or len(shape) != 4:
        raise InputError(
            f"the input of {path} holds no images", got=text,
            allowed="float (N, C, H, W) or (N, H, W, C), or uint8 RGB (N, H, W, 3)",
            next_step="export the network with such an input",
        )  # fmt: skip
    return inputs[0].name, kind, shape, text


def _channels_and_sides(kind: int, shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """Channels, height and width, by where the channels are likely to be; 0 where they are free."""
    last = kind == _UINT8 or (shape[3] in (1, 3) and shape[1] not in (1, 3))
    return (shape[3], (shape[1], shape[2])) if last else (shape[1], (shape[2], shape[3]))


def _read_input(proto: onnx.ModelProto, path: Path, spec: Preprocess) -> tuple[str, Layout, int | None]:
    name, kind, shape, text = _image_input(proto, path)
    layouts: dict[Layout, tuple[int, int, int]] = (
        {"uint8 NHWC": (spec.height, spec.width, 3)}
        if kind == _UINT8
        else {"NCHW": (spec.channels, spec.height, spec.width), "NHWC": (spec.height, spec.width, spec.channels)}
    )
    for layout, wanted in layouts.items():
        if all(size in (0, want) for size, want in zip(shape[1:], wanted, strict=True)):
            return name, layout, shape[0] or None
    raise _other_images(path, text, shape, kind, spec)


def _other_images(path: Path, text: str, shape: tuple[int, ...], kind: int, spec: Preprocess) -> InputError:
    """For a file whose images have another size, or another number of channels, than the recipe's."""
    channels, sides = _channels_and_sides(kind, shape)
    size = str(sides[0]) if sides[0] == sides[1] else f"[{sides[0]}, {sides[1]}]"
    change = f"image_size: {size}" + (", in_chans: 1" if channels == 1 else "")
    return InputError(
        f"the input of {path} is not what the recipe says", got=text,
        allowed=f"images of {spec.height} × {spec.width} pixels, {spec.channels} channel(s): model.image_size and model.in_chans",
        next_step=f"did you mean model: {{onnx: {path}, {change}}}?" if all(sides) and channels in (1, 3)
        else "bring a network for RGB or grey images",
    )  # fmt: skip


def _read_output(
    proto: onnx.ModelProto, path: Path, classes: int | None, output: int | str | None, sides: tuple[int, ...]
) -> str:  # fmt: skip
    outputs = {value.name: value for value in proto.graph.output}
    described = ", ".join(f"{name} {_text(_shape(value))}" for name, value in outputs.items())
    if output is None and len(outputs) > 1:
        likely = [name for name, value in outputs.items() if _shape(value)[1:] == (classes, *sides)] or list(outputs)
        raise InputError(
            f"{path} has several outputs", got=described, allowed="the one with a score for each class",
            next_step=f"set model.output in the recipe, such as output: {likely[0]}",
        )  # fmt: skip
    places = dict(enumerate(outputs))
    name = places.get(output, str(output)) if isinstance(output, int) else output or places[0]
    if name not in outputs:
        raise InputError(
            f"{path} has no such output",
            got=f"model.output: {name}",
            allowed=described,
            next_step="change model.output",
        )
    kind, shape = outputs[name].type.tensor_type.elem_type, _shape(outputs[name]) or _inferred(proto, name)
    fits = len(shape) == 2 + len(sides) and all(of in (0, side) for of, side in zip(shape[2:], sides, strict=False))
    if kind != _FLOAT or not fits:
        raise InputError(
            f"the output of {path} is no score for each class" + (" of each pixel" if sides else ""),
            got=f"{name}: {_kind(kind)} {_text(shape)}",
            allowed=f"float ({', '.join(map(str, ('N', classes or 'classes', *sides)))})",
            next_step="export the network with its class scores as an output"
            + (", brought to the image's size" if sides else ""),
        )  # fmt: skip
    if classes is not None and shape[1] not in (0, classes):
        raise InputError(
            f"{path} has another number of classes than the images", got=f"{name}: {shape[1]} scores",
            allowed=f"{classes}, one for each class of the images",
            next_step="point data.root at images of the classes that it was trained for",
        )  # fmt: skip
    return _before_softmax(proto, name)


def _before_softmax(proto: onnx.ModelProto, name: str) -> str:
    """The tensor that a last softmax is computed of, or the output itself: what is compared and quantized are logits."""
    maker = {output: node for node in proto.graph.node for output in node.output}
    while (node := maker.get(name)) is not None and node.op_type in ("Identity", "Softmax"):
        name = node.input[0]
    return name


def _inferred(proto: onnx.ModelProto, name: str) -> tuple[int, ...]:
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    return next((_shape(value) for value in graph.output if value.name == name), ())


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes, 0 where one is free."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _kind(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()


def _text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(str(size or 'any') for size in shape)})"
