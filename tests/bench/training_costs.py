"""`python tests/bench/training_costs.py`: what training each variant takes, counted: the table of docs/training.md.

Memory of an image is what autograd keeps between forward and backward, counted on the CPU: float32, bfloat16 autocast, and
float32 of the literal-unfold form. Time is operations (three times the forward pass's, two to a MAC) at a given rate.
"""

import argparse
import sys
from pathlib import Path

import timm
import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from literal import literal

import models  # noqa: F401  (registers the models)
from pipeline.commands.model_table import count_cost
from pipeline.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
STATE_BYTES = 20  # a parameter: weight, gradient, AdamW's two moments, moving average, in float32
IMAGES = 1_281_167  # of ImageNet's training set


def image_mib(model: nn.Module, size: int, amp: bool) -> float:
    """MiB that autograd keeps for one image more: autocast's copies of the weights are the same for any batch."""
    return (kept_mib(model, size, amp, 3) - kept_mib(model, size, amp, 1)) / 2


def kept_mib(model: nn.Module, size: int, amp: bool, batch: int) -> float:
    """MiB that autograd keeps for a batch, weights not counted; what two operations keep in common counts once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    storages: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # an address is one tensor's only while it lives
        return tensor

    images = torch.randn(batch, 3, size, size)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, amp),
    ):
        loss = nn.functional.cross_entropy(model(images), torch.zeros(batch, dtype=torch.int64))
    del loss
    return sum(storages.values()) / 2**20


def main() -> None:
    """Print the table, a row for each recipe of ImageNet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=30.0, help="sustained TFLOP/s of a GPU, for the days")
    parser.add_argument("--gpus", type=int, default=8)
    options = parser.parse_args()
    print(f"| recipe | state GB | MiB an image: float32 | bfloat16 | literal float32 | GB at its batch, float32 | "
          f"PFLOP an epoch | days on {options.gpus} GPUs at {options.rate:g} TFLOP/s each |")  # fmt: skip
    print("| --- |" + " ---: |" * 7)
    for path in sorted(RECIPES.glob("t2t_vit_*.yaml")):
        recipe = load_recipe(path)
        size = recipe.model.image_size
        model = timm.create_model(str(recipe.model.name), img_size=size)
        state = STATE_BYTES * sum(parameter.numel() for parameter in model.parameters()) / 1e9
        macs = count_cost(model, size).macs
        model.train()
        plain, half = (image_mib(model, size, amp) for amp in (False, True))
        unfolded = image_mib(literal(model), size, False)
        batch = recipe.train.batch_size
        total = state + plain * batch * 2**20 / 1e9
        work = 6 * macs * IMAGES
        days = work * recipe.train.epochs / (options.rate * 1e12 * options.gpus) / 86_400
        print(f"| {path.stem} | {state:.2f} | {plain:.0f} | {half:.0f} | {unfolded:.0f} | {total:.1f} (batch {batch}) | "
              f"{work / 1e15:.0f} | {days:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
