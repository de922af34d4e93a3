"""A recipe with everything that it leaves open filled in: what its stages read."""

from dataclasses import dataclass

from calib.errors import InputError
from pipeline.data.look import Look
from pipeline.recipe import Recipe
from pipeline.resolve.classes import resolve_classes
from pipeline.resolve.network import resolve_network
from pipeline.resolve.training import resolve_training
from pipeline.training.learning.learning import LEARNING


@dataclass(frozen=True)
class Resolved:
    """`lines` say what was filled in and where it came from; `look` is at the images of `recipe`."""

    recipe: Recipe
    look: Look
    lines: tuple[str, ...]


def resolve(recipe: Recipe, *, unpack: bool = True, decode: bool = False) -> Resolved:
    """Fill in size and preprocessing from the network, the classes of a network that is used as it is, and the training by the
    number of images. A resolved recipe stays as it is. `unpack` and `decode` as `Look` has them.

    Without `unpack`, images that are still packed are not counted: the training is then as the recipe has it.
    """
    recipe, lines = resolve_network(recipe)
    recipe, more = resolve_classes(recipe, unpack=unpack)
    look = Look(recipe, unpack=unpack, decode=decode)
    lines += more
    if recipe.train.epochs > 0 and (images := _count(look, unpack)):
        train, more = resolve_training(
            recipe.train, images, given_weights=recipe.model.starts_with_weights, off=LEARNING[recipe.data.task].off
        )
        recipe, lines = recipe.model_copy(update={"train": train}), lines + more
    return Resolved(recipe, look, tuple(lines))


def _count(look: Look, unpack: bool) -> int:
    """How many images there are to train on. Without `unpack` 0 where they cannot be listed: the plan then says why."""
    try:
        return len(look.splits()[0])
    except InputError:
        if unpack:
            raise
        return 0
