"""What a mix of precisions loses, in images and in pixels, and whether that is too much."""

import numpy as np
import pytest

from calib.masks import IGNORED
from calib.precision.search_limits import Limits, hopeless, refusal
from pipeline.tasks.image_drop import ImageDrop, image_drop, images_needed
from pipeline.tasks.pixel_drop import FEWEST_IMAGES, pixel_drop, pixel_images_needed
from pipeline.tasks.pixels import NO_CLASS, Map, mean_iou, overlap
from pipeline.tasks.task import task_named


def logits(answers: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[answers]


def test_comparison_counts_images() -> None:
    labels = np.array([0, 1, 2, 0, 1])
    fp32, ours = logits([0, 1, 0, 1, 1]), logits([1, 1, 2, 2, 1])  # lost, same, gained, still wrong, broken
    ours[4] = np.nan
    found = image_drop(ours, fp32, labels)
    assert found == ImageDrop(images=5, right=3, lost=2, gained=1, differing=4, broken=1)
    assert (found.fp32_score, found.score, found.drop_pp, found.agreement) == pytest.approx((60, 40, 20, 20))
    with pytest.raises(RuntimeError, match="FP32 network makes NaN"):
        image_drop(fp32, ours, labels)


LIMITS = Limits(0.99, 0.3)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (ImageDrop(512, 512, 0, 0, 0, 0), ""),
        (ImageDrop(512, 512, 1, 0, 1, 0), ""),
        (ImageDrop(512, 512, 2, 0, 2, 0), "drop 0.39 points, at most 0.3"),
        (ImageDrop(512, 512, 1, 0, 1, 1), "NaN or Inf on 1 of 512"),
        (ImageDrop(512, 400, 8, 8, 20, 0), "the gate allows 0.78"),  # no drop here, yet it might be one elsewhere
        (ImageDrop(4096, 3200, 8, 8, 20, 0), ""),  # … and with more images it is sure that it is none
        (ImageDrop(100, 100, 0, 0, 0, 0), "the gate allows 1.00"),
    ],
)
def test_refusals(found: ImageDrop, reason: str) -> None:
    assert reason in refusal(found, LIMITS) and bool(reason) == bool(refusal(found, LIMITS))


def test_too_few_images_are_known_beforehand() -> None:
    needed = images_needed(100.0, LIMITS)
    assert needed == 163
    assert not refusal(ImageDrop(needed, needed, 0, 0, 0, 0), LIMITS)
    assert refusal(ImageDrop(needed - 1, needed - 1, 0, 0, 0, 0), LIMITS)
    assert images_needed(100.0, Limits(1.0, 0.3)) is None


def test_the_interval_covers_the_drop_95_times_of_100() -> None:
    rng, images, lost, gained = np.random.default_rng(0), 512, 0.02, 0.012
    above = below = 0
    for _ in range(2000):
        counts = rng.multinomial(images, [lost, gained, 1 - lost - gained])
        found = ImageDrop(images, 400, int(counts[0]), int(counts[1]), int(counts[0] + counts[1]), 0)
        above += found.highest_drop_pp >= 100 * (lost - gained)
        below += found.lowest_drop_pp <= 100 * (lost - gained)
    assert 0.94 <= above / 2000 <= 0.98 and 0.94 <= below / 2000 <= 0.98


def test_hopeless_is_said_only_when_it_is() -> None:
    assert hopeless(ImageDrop(64, 64, 2, 0, 2, 0), LIMITS) == ""
    assert "drop at least" in hopeless(ImageDrop(64, 64, 6, 0, 6, 0), LIMITS)
    assert "NaN" in hopeless(ImageDrop(64, 64, 1, 0, 1, 1), LIMITS)


def scenes(images: int, seed: int = 0) -> tuple[Map, Map]:
    """Masks (images, 8, 8) of three classes with a column that is ignored, and FP32's maps, wrong in one pixel of eight."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (images, 8, 8)).astype(np.uint8)
    fp32 = np.where(rng.random(masks.shape) < 1 / 8, (masks + 1) % 3, masks).astype(np.uint8)
    masks[:, :, 0] = IGNORED
    return masks, fp32


def spoiled(fp32: Map, share: float, seed: int = 1) -> Map:
    """Maps with another class in a share of the pixels."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(fp32.shape) < share, (fp32 + 1) % 3, fp32).astype(np.uint8)


def test_a_mix_that_changes_no_pixel_holds_on_any_number_of_images() -> None:
    masks, fp32 = scenes(2)
    found = pixel_drop(fp32.copy(), fp32, masks)
    assert (found.drop_pp, found.highest_drop_pp, found.lowest_drop_pp, found.agreement) == (0, 0, 0, 100)
    assert found.score == found.fp32_score == mean_iou(overlap(fp32, masks)) < 90
    assert not refusal(found, LIMITS) and not hopeless(found, LIMITS)


def test_a_drop_of_miou_is_refused_by_its_interval_and_by_its_size() -> None:
    masks, fp32 = scenes(64)
    little, much = (pixel_drop(spoiled(fp32, share), fp32, masks) for share in (0.004, 0.1))
    assert 0 < little.drop_pp < little.highest_drop_pp and little.lowest_drop_pp < little.drop_pp
    allowed = 100 * little.highest_drop_pp / little.fp32_score  # of FP32's mIoU, percent
    assert not refusal(little, Limits(1 - 1.01 * allowed / 100, 9.0)) and not hopeless(little, Limits(0.99, 9.0))
    assert "the gate allows" in refusal(little, Limits(1 - 0.99 * allowed / 100, 9.0))
    assert "points, at most 0.1" in refusal(little, Limits(0.5, 0.1))
    assert much.drop_pp > 10 and "drop at least" in hopeless(much, LIMITS)


def test_a_pixel_without_a_class_refuses_the_mix_and_is_no_reference() -> None:
    masks, fp32 = scenes(4)
    broken = fp32.copy()
    broken[1, 2, 3] = NO_CLASS
    found = pixel_drop(broken, fp32, masks)
    assert found.broken == 1 and refusal(found, LIMITS) == hopeless(found, LIMITS) == "NaN or Inf on 1 of 4 images"
    assert found.agreement == pytest.approx(100 * (1 - 1 / fp32.size))
    with pytest.raises(RuntimeError, match="FP32 network makes NaN"):
        pixel_drop(fp32, broken, masks)


def test_the_interval_of_miou_covers_its_drop() -> None:
    """Drawn again and again from many images, `FEWEST_IMAGES` at a time: the two ends hold the drop of all of them."""
    masks, fp32 = scenes(4000)
    rng = np.random.default_rng(2)
    worse = np.where(rng.random((4000, 1, 1)) < 0.1, 0.3, 0.01)  # a tenth of the images loses most
    ours = np.where(rng.random(fp32.shape) < worse, (fp32 + 1) % 3, fp32).astype(np.uint8)
    true = pixel_drop(ours, fp32, masks).drop_pp
    draws = [rng.choice(4000, FEWEST_IMAGES, replace=False) for _ in range(200)]
    found = [pixel_drop(ours[rows], fp32[rows], masks[rows]) for rows in draws]
    assert np.mean([of.highest_drop_pp >= true for of in found]) >= 0.85
    assert np.mean([of.lowest_drop_pp <= true for of in found]) >= 0.9


def test_the_least_number_of_images_of_each_task() -> None:
    assert task_named("classification").images_needed(100.0, LIMITS) == 163
    assert task_named("segmentation").images_needed(50.0, LIMITS) == FEWEST_IMAGES == pixel_images_needed(50.0, LIMITS)
    assert pixel_images_needed(50.0, Limits(1.0, 0.3)) is None and pixel_images_needed(0.0, LIMITS) is None


def test_masks_that_change_are_other_labels() -> None:
    masks, _ = scenes(4)
    of_masks = task_named("segmentation").labels_hash
    assert of_masks(masks) == of_masks(masks.copy()) != of_masks(masks[::-1].copy())
    assert task_named("classification").labels_hash(np.zeros(4, np.int64)) == ""
