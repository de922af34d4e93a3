"""The training that a recipe does not state: by the number of images, and never against the recipe."""

import pytest

from pipeline.parts.train import TrainPart
from pipeline.resolve.training import LARGE, SIZES, resolve_training


@pytest.mark.parametrize(
    ("images", "given_weights", "epochs", "batch_size", "lr"),
    [
        (1_999, False, 100, 16, 1e-3), (2_000, False, 30, 32, 1e-3), (19_999, True, 10, 32, 5e-4), (20_000, True, 5, 64, 5e-4),
        (LARGE - 1, False, 20, 64, 1e-3), (7, True, 20, 6, 5e-4), (1, False, 100, 2, 1e-3),
    ],
)  # fmt: skip
def test_fewer_images_are_seen_as_they_are(
    images: int, given_weights: bool, epochs: int, batch_size: int, lr: float
) -> None:
    part, (line,) = resolve_training(TrainPart(), images, given_weights=given_weights)
    assert (part.epochs, part.batch_size, part.lr) == (epochs, batch_size, lr)
    assert (part.mixup, part.cutmix, part.auto_augment, part.random_erasing, part.drop_path) == (0, 0, None, 0, 0)
    assert part.backbone_lr_ratio == (0.1 if given_weights else 1)
    assert (
        line.startswith(f"train: epochs {epochs}, batch_size {batch_size}, lr {lr:g}") and f"{images:,} image" in line
    )
    assert resolve_training(part, images, given_weights=given_weights) == (part, [])


def test_what_the_recipe_states_is_kept() -> None:
    stated = {"epochs": 1, "mixup": 0.2, "auto_augment": "rand-m9-mstd0.5-inc1", "global_batch": 512}
    part, (line,) = resolve_training(TrainPart.model_validate(stated), 500, given_weights=False)
    assert part.model_dump() | stated == part.model_dump()
    assert part.batch_size == 64, "it belongs to the global batch"
    assert part.warmup_epochs == 0, "one epoch leaves no time for a warm-up"
    assert "epochs 1" not in line and "mixup" not in line and "cutmix 0" in line


@pytest.mark.parametrize(("images", "epochs"), [(LARGE, 310), (500, 0)])
def test_large_sets_and_no_training_have_the_paper_s_values(images: int, epochs: int) -> None:
    part = TrainPart.model_validate({} if epochs else {"epochs": 0})
    assert resolve_training(part, images, given_weights=False) == (part, [])
    assert part.epochs == epochs


def test_the_table_rises() -> None:
    assert [size.below for size in SIZES] == sorted(size.below for size in SIZES)
