"""Size and preprocessing that a recipe does not state: its network's own, or the default."""

from dataclasses import dataclass
from typing import Any

from timm.data import resolve_data_config

from calib.preprocess import Preprocess
from pipeline.data.hub import network_config
from pipeline.parts.model import ModelPart
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import FORMAT, read_file
from pipeline.training.network import check_name, own_size

_NEAR = 1e-3  # how much mean or std may differ: configurations are rounded
_KEYS = ("crop_pct", "interpolation", "mean", "std")


@dataclass(frozen=True)
class Known:
    """What is known of the images that a network's weights were trained on; `origin` says by what."""

    origin: str
    image_size: int | None
    values: dict[str, Any]
    remarks: tuple[str, ...] = ()


def resolve_network(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """`recipe` with `model.image_size` and all of `preprocess`, and lines that say what is used and where it came from.

    What the recipe states is kept; a warning says where the weights were trained with another mean or std. A network without
    weights has its own size alone: nothing else of it is fixed before training.
    """
    model, known = recipe.model, _known(recipe.model)
    origins = dict.fromkeys(_KEYS, "default") | dict.fromkeys(known.values, known.origin)
    origins |= dict.fromkeys(recipe.preprocess.model_fields_set, "recipe")
    filled = {key: value for key, value in known.values.items() if origins[key] != "recipe"}
    size, size_origin = model.image_size, "recipe"
    if size is None:
        check_name(model)
        size, size_origin = (known.image_size, known.origin) if known.image_size else (own_size(model), "network")
    resolved = recipe.model_copy(update={
        "model": model.model_copy(update={"image_size": size}),
        "preprocess": recipe.preprocess.model_copy(update=filled),
    })  # fmt: skip
    spec = resolved.preprocess_spec()  # an error where there is no size
    lines = [_line(spec, {"size": size_origin} | origins), *known.remarks]
    return resolved, lines + _contradictions(recipe, known)


def _known(model: ModelPart) -> Known:
    """Of the weights that `model` starts with: what our checkpoint says, or timm's configuration of them."""
    if model.checkpoint is not None and model.checkpoint.is_file():
        content = read_file(model.checkpoint)
        if content.get("format") == FORMAT:
            stored = content.get("preprocess") or {}
            values = {key: _plain(stored[key]) for key in _KEYS if key in stored}
            return Known("checkpoint", content.get("image_size"), values)
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
    if len(values["mean"]) != 3:  # of grey images, which are read as three equal channels
        del values["mean"], values["std"]
    return Known("network", None, values, tuple(remarks))


def _contradictions(recipe: Recipe, known: Known) -> list[str]:
    """A warning for each of mean and std that the recipe states and the weights were not trained with."""
    lines = []
    for key in ("mean", "std"):
        stated, wanted = getattr(recipe.preprocess, key), known.values.get(key)
        differs = wanted is not None and max(abs(a - b) for a, b in zip(stated, wanted, strict=True)) > _NEAR
        if key in recipe.preprocess.model_fields_set and differs:
            lines.append(
                f"warning: preprocess.{key} is {_three(stated)} in the recipe, but the weights were trained with "
                f"{_three(wanted)} (by their {_OWNERS[known.origin]}): accuracy is lost unless they are trained on"
            )
    return lines


_OWNERS = {"network": "network's configuration", "checkpoint": "checkpoint"}


def _line(spec: Preprocess, origins: dict[str, str]) -> str:
    """`images: 224 px (recipe); crop 0.9, bicubic, mean …, std … (network)`."""
    shown = {
        "size": f"{spec.width} px", "crop_pct": f"crop {spec.crop_pct:g}", "interpolation": spec.interpolation,
        "mean": f"mean {_three(spec.mean)}", "std": f"std {_three(spec.std)}",
    }  # fmt: skip
    groups: list[tuple[str, list[str]]] = []
    for key, text in shown.items():
        if not groups or groups[-1][0] != origins[key]:
            groups.append((origins[key], []))
        groups[-1][1].append(text)
    return "images: " + "; ".join(f"{', '.join(texts)} ({origin})" for origin, texts in groups)


def _three(values: Any) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _plain(value: Any) -> Any:
    return tuple(float(number) for number in value) if isinstance(value, list | tuple) else value
