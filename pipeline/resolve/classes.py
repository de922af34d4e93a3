"""The classes of a network that is used as it is: its outputs have an order, which the images' folders cannot change."""

from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset

from calib.hidden import is_hidden
from calib.images import refuse_unnameable
from pipeline.console.figures import counted
from pipeline.data.dataset import is_packed, make_folders
from pipeline.data.hub import network_config
from pipeline.parts.data import DataPart
from pipeline.parts.model import ModelPart
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import FORMAT, read_file, weights_of
from pipeline.training.network import classifier_names, create_network


def resolve_classes(recipe: Recipe, *, unpack: bool) -> tuple[Recipe, list[str]]:
    """`recipe` with the names of its classes in `data.classes`, where they are not the folders of `train` as they are sorted.

    These are the ones that `data.classes` names. Without it, and with `train.epochs: 0`, they are the network's own, where
    something tells their names and all folders are among them: our checkpoint, the configuration of a network from the hub, or
    the WordNet names of ImageNet. A network without a `train` folder has the folders of `val`.
    """
    data = recipe.data
    names = data.class_names
    if names is not None:
        lines = [f"classes: {counted(len(names), 'class')} of data.classes"]
        return _with_classes(recipe, names), lines if isinstance(data.classes, Path) else []
    if recipe.train.epochs > 0 or (is_packed(data) and not unpack):
        return recipe, []
    make_folders(data)
    train, val = _folders(data, "train"), _folders(data, "val")
    known, origin = _known(recipe.model, train | val)
    if known and train | val <= set(known) and tuple(sorted(train)) != known:
        said = f"classes: the network's {len(known):,}, {origin}; {len(train | val):,} of them in {data.root}"
        return _with_classes(recipe, known), [said]
    if not train and len(val) > 1:
        return _with_classes(recipe, tuple(sorted(val))), []
    return recipe, []


def _with_classes(recipe: Recipe, names: tuple[str, ...]) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"classes": names})})


def _folders(data: DataPart, split: str) -> set[str]:
    """Names of the class folders of a split; none where it is missing."""
    folder = data.root / split
    found = (
        {entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)}
        if folder.is_dir()
        else ()
    )
    refuse_unnameable(folder, sorted(found))
    return set(found)


def _known(model: ModelPart, folders: set[str]) -> tuple[tuple[str, ...] | None, str]:
    """The names of the network's outputs in their order, and by what they are known; None where nothing tells them."""
    if model.checkpoint is not None and model.checkpoint.is_file():
        content = read_file(model.checkpoint)
        if content.get("format") == FORMAT:
            return tuple(content["classes"]), "named in its checkpoint"
    config = network_config(model.name) or {} if model.pretrained and model.name is not None else {}
    labels = config.get("label_names")
    if isinstance(labels, list | tuple) and folders <= set(labels):
        return tuple(map(str, labels)), "named in its configuration"
    outputs = config.get("num_classes") if model.pretrained else _outputs(model)
    subset = infer_imagenet_subset({"num_classes": outputs})
    if subset is None:
        return None, ""
    names = tuple(ImageNetInfo(subset).label_names())
    return (
        (names, "of ImageNet, by their WordNet names")
        if folders <= set(names) and len(names) == outputs
        else (None, "")
    )


def _outputs(model: ModelPart) -> int | None:
    """How many classes the classifier in a checkpoint file is for; None where it cannot be told."""
    if (
        model.checkpoint is None
        or not model.checkpoint.is_file()
        or model.name is None
        or not timm.is_model(model.name)
    ):
        return None
    weights = weights_of(read_file(model.checkpoint), model.checkpoint)
    with torch.device("meta"):
        names = classifier_names(create_network(model, 2))
    rows = {weights[name].shape[0] for name in names if name in weights}
    return rows.pop() if len(rows) == 1 else None
