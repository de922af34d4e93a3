"""A network with timm's own pretrained weights, from the hub or its cache; nothing of them is run as code."""

import hashlib
from typing import Any, BinaryIO

from calib.errors import InputError
from pipeline.console.figures import counted, one_line
from pipeline.data.hub import find_weights, network_config
from pipeline.parts.model import ModelPart
from pipeline.training.network import classifier_names, create_network
from pipeline.training.weights import Loaded


def load_pretrained(part: ModelPart, classes: tuple[str, ...], drop_path: float = 0.0) -> Loaded:
    """The network of `part` with the weights that timm has for it, on the CPU, in eval mode.

    For another number of classes than theirs the classifier is new. timm takes the position embedding to the size of `part`.
    InputError where the weights are not in the cache and cannot be fetched, or do not fit.
    """
    config, name = network_config(str(part.name)) or {}, str(part.name)
    weights = find_weights(name)
    try:
        model = create_network(part, len(classes), drop_path, weights=weights.path)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # timm and safetensors raise many kinds on a damaged or unfit file; the cause stays attached
        raise InputError(
            f"the pretrained weights of {name} cannot be loaded",
            got=f"{weights.path}: {type(error).__name__}: {one_line(str(error))}",
            allowed="whole files of a network of that name",
            next_step=f"if the file is damaged, delete it, so that it is fetched again: rm '{weights.path}'",
        ) from error  # fmt: skip
    notes = [f"weights of {weights.source}" + (f", revision {weights.revision[:12]}" if weights.revision else "")]
    fresh = len(classes) != config.get("num_classes")
    if fresh:
        names = ", ".join(sorted(classifier_names(model)))
        notes.append(f"fresh for {counted(len(classes), 'class')}: {names}")
    return Loaded(model.eval(), tuple(notes), fresh)


def pretrained_notes(part: ModelPart) -> dict[str, Any]:
    """Which weights they are: for the manifest. Nothing without `model.pretrained`."""
    if not part.pretrained:
        return {}
    weights = find_weights(str(part.name), fetch=False)
    with weights.path.open("rb") as file:
        digest = _sha256(file)
    return {
        "pretrained": {
            "source": weights.source, "revision": weights.revision, "file": weights.path.name, "sha256": digest,
        }
    }  # fmt: skip


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
