"""What a stage depends on now."""

from export.brought.file import files_beside
from export.engines.engine import backend_version
from pipeline.artifact import hash_of
from pipeline.data.content import Contents
from pipeline.data.look import Look
from pipeline.recipe import Recipe
from pipeline.run.code import code_of, packages_of
from pipeline.run.identity import Identity
from pipeline.run.stage import Inputs, Stage


def identify(stage: Stage, recipe: Recipe, inputs: Inputs, look: Look) -> Identity:
    """What `stage` depends on, with the images as `look` finds them."""
    values = recipe.model_dump(mode="json")
    return Identity(
        stage.name, stage.trains, stage.read(values),
        {name: hash_of(artifact.outputs) for name, artifact in inputs.items()},
        {name: found.digest for name, found in contents_of(stage, look).items()},
        packages_of(stage) | {name: backend_version(name) for name in stage.backends(recipe)},
        code_of(stage, recipe.model.factory), stage.places(values),
    )  # fmt: skip


def contents_of(stage: Stage, look: Look) -> dict[str, Contents]:
    """The images that a stage reads, and the weights or ONNX file that it starts from, by what messages call them."""
    found = dict(look.images()) if stage.uses_images else {}
    if "calibrate" in stage.parts and (source := look.source()) is not None:
        found["calibrate.source"] = source
    if "train" in stage.parts and (checkpoint := look.checkpoint()) is not None:
        found["model.checkpoint"] = checkpoint
    if "train" in stage.parts and (pretrained := look.pretrained()) is not None:
        found["model.pretrained"] = pretrained
    if "train" in stage.parts and (brought := look.onnx(files_beside)) is not None:
        found["model.onnx"] = brought
    return found
