"""Size and preprocessing that a recipe does not state: its network's own, or the default."""

from dataclasses import dataclass
from typing import Any

from timm.data import resolve_data_config

from calib.preprocess import Preprocess
from export.brought.file import read_graph
from export.brought.interface import read_images
from pipeline.data.hub import network_config
from pipeline.parts.model import GREY_MEAN, GREY_STD, ImageSize, ModelPart, shown
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import FORMAT, read_file
from pipeline.training.network import check_name, own_size

_NEAR = 1e-3  # how much mean or std may differ: configurations are rounded
_KEYS = ("crop_pct", "interpolation", "mean", "std")
_GREY = {"mean": GREY_MEAN, "std": GREY_STD}


@dataclass(frozen=True)
class Known:
    """What is known of the images that a network's weights were trained on; `origin` says by what."""

    origin: str
    image_size: ImageSize | None
    values: dict[str, Any]
    remarks: tuple[str, ...] = ()
    in_chans: int | None = None


def resolve_network(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """`recipe` with `model.image_size` and all of `preprocess`, and lines that say what is used and where it came from.

    What the recipe states is kept; a warning says where the weights were trained with another mean or std. A network without
    weights has its own size alone: nothing else of it is fixed before training. A network in an ONNX file has the size and the
    number of channels that its file says.
    """
    model, stated = recipe.model, _stated(recipe)
    known = _known(model)
    if known.in_chans is not None and not {"in_chans", "mean", "std"} & (model.model_fields_set | stated):
        model = model.model_copy(update={"in_chans": known.in_chans})
    values = {key: value for key, value in known.values.items() if key not in _GREY or len(value) == model.in_chans}
    origins = dict.fromkeys(_KEYS, "default") | dict.fromkeys(values, known.origin) | dict.fromkeys(stated, "recipe")
    filled = (_GREY if model.in_chans == 1 else {}) | values
    size, size_origin = model.image_size, "recipe"
    if size is None:
        check_name(model)
        size, size_origin = (known.image_size, known.origin) if known.image_size else (own_size(model), "network")
    resolved = recipe.model_copy(update={
        "model": model.model_copy(update={"image_size": size}),
        "preprocess": recipe.preprocess.model_copy(
            update={key: value for key, value in filled.items() if key not in stated}
        ),
    })  # fmt: skip
    spec = resolved.preprocess_spec()  # an error where there is no size
    lines = [_line(spec, {"size": size_origin} | origins), *known.remarks]
    return resolved, lines + _contradictions(recipe, stated, known, values)


def _stated(recipe: Recipe) -> set[str]:
    """The keys of `preprocess` that the recipe has. ImageNet's mean and std in grey are what it fills in itself."""
    part = recipe.preprocess
    return {key for key in part.model_fields_set if key not in _GREY or getattr(part, key) != _GREY[key]}


def _known(model: ModelPart) -> Known:
    """Of the weights that `model` starts with: what our checkpoint or the ONNX file says, or timm's configuration of them."""
    if model.onnx is not None:
        images = read_images(read_graph(model.onnx), model.onnx)
        return Known("file", _size(images.height_width), {}, in_chans=images.channels)
    if model.checkpoint is not None and model.checkpoint.is_file():
        content = read_file(model.checkpoint)
        if content.get("format") == FORMAT:
            stored = content.get("preprocess") or {}
            values = {key: _plain(stored[key]) for key in _KEYS if key in stored}
            return Known("checkpoint", _size(content.get("image_size")), values)
    config = network_config(model.name) if model.name is not None and model.starts_with_weights else None
    return Known("network", None, {}) if config is None else _from_config(config)


def _from_config(config: dict[str, Any]) -> Known:
    """Of timm's configuration, as timm itself reads it."""
    read = resolve_data_config({}, pretrained_cfg=config)
    values = {"crop_pct": min(float(read["crop_pct"]), 1.0), "mean": _plain(read["mean"]), "std": _plain(read["std"])}
    remarks = []
    if read["interpolation"] in ("bilinear", "bicubic"):
        values["interpolation"] = read["interpolation"]
    else:
        remarks.append(f"the network's own interpolation is {read['interpolation']}, which there is not here")
    if read.get("crop_mode", "center") != "center":
        remarks.append(f"the network's own crop is {read['crop_mode']}; here the centre is cropped")
    return Known("network", None, values, tuple(remarks))


def _contradictions(recipe: Recipe, stated_keys: set[str], known: Known, values: dict[str, Any]) -> list[str]:
    """A warning for each of mean and std that the recipe states and the weights were not trained with."""
    lines = []
    for key in ("mean", "std"):
        stated, wanted = getattr(recipe.preprocess, key), values.get(key)
        differs = wanted is not None and max(abs(a - b) for a, b in zip(stated, wanted, strict=True)) > _NEAR
        if key in stated_keys and differs:
            lines.append(
                f"warning: preprocess.{key} is {_three(stated)} in the recipe, but the weights were trained with "
                f"{_three(wanted)} (by their {_OWNERS[known.origin]}): accuracy is lost unless they are trained on"
            )
    return lines


_OWNERS = {"network": "network's configuration", "checkpoint": "checkpoint"}


def _line(spec: Preprocess, origins: dict[str, str]) -> str:
    """`images: 224 px (recipe); crop 0.9, bicubic, mean …, std … (network)`."""
    texts = {
        "size": f"{shown(_size((spec.height, spec.width)))} px",
        "crop_pct": f"crop {spec.crop_pct:g}", "interpolation": spec.interpolation,
        "mean": f"mean {_three(spec.mean)}", "std": f"std {_three(spec.std)}",
    }  # fmt: skip
    groups: list[tuple[str, list[str]]] = []
    for key, text in texts.items():
        if not groups or groups[-1][0] != origins[key]:
            groups.append((origins[key], []))
        groups[-1][1].append(text)
    return "images: " + "; ".join(f"{', '.join(group)} ({origin})" for origin, group in groups)


def _size(sides: Any) -> Any:
    """Height and width as a recipe has them: one number where they are equal."""
    if isinstance(sides, list | tuple):
        return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])
    return sides


def _three(values: Any) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _plain(value: Any) -> Any:
    return tuple(float(number) for number in value) if isinstance(value, list | tuple) else value
