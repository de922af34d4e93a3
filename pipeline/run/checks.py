"""What is bound to fail later, found before anything runs: network, checkpoint, images, calibration set.

A training of hours must not start for a result that a later stage refuses.
"""

import torch

from calib.calibration_source import draw_calibration_images
from calib.errors import InputError
from calib.images import ImageSplit
from export.brought.file import read_file
from export.brought.interface import read_interface
from pipeline.console.figures import one_line
from pipeline.data.archive import packed_train_split
from pipeline.data.dataset import archive_of, check_train_images, is_packed
from pipeline.data.hub import find_weights, is_offline
from pipeline.data.look import Look
from pipeline.parts.data import DataPart
from pipeline.parts.model import ModelPart, shown
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import read_file as read_checkpoint_file
from pipeline.training.checkpoint import weights_of
from pipeline.training.learning.learning import check_augmentation
from pipeline.training.network import check_shape, create_network, logits_of, own_size

_UNKNOWN_CLASSES = (
    2  # for a network whose images are not written yet: how many classes they have does not matter to its size
)


def check_before_running(recipe: Recipe, look: Look, *, training: bool) -> None:
    """InputError for what would fail while `recipe` runs; nothing of a run is written, and nothing is unpacked.

    With `training` every image is decoded, unless `look` knows that it was. Without, as it is complete, only what the calibrate
    stage would refuse is looked for.
    """
    train = _training_images(recipe.data, look)
    if training:
        _check_network(recipe, None if train is None else len(train.classes))
    if train is not None:
        if recipe.train.epochs > 0:
            check_train_images(train)
            check_augmentation(recipe.data.task, recipe.train)
        part, pool = recipe.calibrate, train if len(train) else look.splits()[1]
        draw_calibration_images(part.source, pool, recipe.preprocess_spec(), part.images, part.seed)
    if training and not is_packed(recipe.data):
        look.check()


def _training_images(data: DataPart, look: Look) -> ImageSplit | None:
    """The train split, of an archive as far as it tells; None where `data.source` is not written out yet."""
    if not is_packed(data):
        return look.splits()[0]
    archive = archive_of(data)
    return packed_train_split(archive, data.root) if archive.is_file() else None


def _check_network(recipe: Recipe, known_classes: int | None) -> None:
    """The network is there and takes the recipe's images; the checkpoint can be read, and pretrained weights can be had."""
    part = recipe.model
    if part.onnx is not None:
        spec, sides = recipe.preprocess_spec(), recipe.logit_sides()
        read_interface(read_file(part.onnx), part.onnx, spec, known_classes, part.output, sides)
        return
    classes = known_classes or _UNKNOWN_CLASSES
    drop_path = recipe.train.drop_path if recipe.train.epochs > 0 else 0.0
    with torch.random.fork_rng(devices=[]):  # what is made here must not change what training draws
        if part.factory is not None:  # not on the meta device: a factory may keep what it made, and give it again
            create_network(part, classes, drop_path, task=recipe.data.task)
        else:
            _check_image_size(part, classes, drop_path, recipe.data.task)
    if part.pretrained and is_offline():
        find_weights(str(part.name))
    if part.checkpoint is not None:
        weights_of(read_checkpoint_file(part.checkpoint), part.checkpoint)


def _check_image_size(part: ModelPart, classes: int, drop_path: float, task: str) -> None:
    """InputError unless a timm network takes one image of `part.image_size` and gives logits of the task's shape.

    Asked of the meta device, which computes shapes alone, at once and without memory. It lacks some operators: what fails there
    is tried again on the CPU.
    """
    try:
        _forward(part, classes, drop_path, "meta", task)
        return
    except InputError as error:
        if not _fits_at_default(part, classes, drop_path, task):
            raise  # no such model, or wrong arguments: the size is not to blame
        refused: Exception = error
    except Exception:  # a network raises what it likes, and the meta device raises for itself
        try:
            _forward(part, classes, drop_path, "cpu", task)
            return
        except Exception as error:
            refused = error
    raise _not_taken(part, refused) from refused


def _forward(part: ModelPart, classes: int, drop_path: float, device: str, task: str) -> None:
    """Build the network on `device` and give it one image. InputError where its logits are not what the task wants."""
    with torch.device(device), torch.inference_mode():
        model = create_network(part, classes, drop_path).eval()
        logits = logits_of(model(torch.zeros(1, *part.image_shape)), part)
    check_shape(logits, part, classes, task)


def _fits_at_default(part: ModelPart, classes: int, drop_path: float, task: str) -> bool:
    """Whether the network is made at the size of its own default configuration, which is not the recipe's."""
    size = own_size(part)
    if size in (None, part.image_size):
        return False
    try:
        _forward(part.model_copy(update={"image_size": size}), classes, drop_path, "meta", task)
    except InputError:
        return False
    except Exception:  # it was made
        return True
    return True


def _not_taken(part: ModelPart, error: Exception) -> InputError:
    size, default = part.known_size, own_size(part)
    said = str(error.got) if isinstance(error, InputError) else str(error)
    other, change = default if default != size else None, "change model.image_size or model.args in the recipe"
    return InputError(
        f"the network of {part.label} does not take images {(1, *part.image_shape)}",
        got=f"model.image_size: {shown(size)}; torch says: {one_line(said) or type(error).__name__}",
        allowed=f"{shown(other)}, the size in its own default configuration, or another that it takes" if other else None,
        next_step=f"did you mean image_size: {shown(other)}? {change}" if other else change,
    )  # fmt: skip
