"""Counts of class maps against counting pixel by pixel; the interval against resampling by hand; what is not finite."""

import numpy as np
import pytest

from pipeline.tasks.pixel_comparison import compare_maps
from pipeline.tasks.pixels import (
    IGNORED,
    NO_CLASS,
    class_iou,
    class_map,
    finite_images,
    iou_differences,
    mean_iou,
    overlap,
    paired_iou_interval,
    pixel_accuracy,
    pixel_agreement,
)
from pipeline.tasks.task import TASKS, task_named

CLASSES = ("background", "cat", "dog", "never")


def scenes(seed: int = 0, images: int = 40, wrong: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Masks of three of four classes with ignored pixels, and maps in which some pixels have another class."""
    generator = np.random.default_rng(seed)
    masks = generator.integers(0, 3, (images, 6, 5)).astype(np.uint8)
    others = generator.integers(0, 4, masks.shape).astype(np.uint8)
    maps = np.where(generator.random(masks.shape) < wrong, others, masks)
    masks[generator.random(masks.shape) < 0.1] = IGNORED
    return maps, masks


def test_iou_is_that_of_counting_pixel_by_pixel() -> None:
    maps, masks = scenes()
    expected = []
    for label in range(3):
        both = either = 0
        for found, truth in zip(maps.ravel(), masks.ravel(), strict=True):
            if truth != IGNORED:
                both += int(found == label and truth == label)
                either += int(found == label or truth == label)
        expected.append(100 * both / either)
    found = overlap(maps, masks, len(CLASSES))
    assert class_iou(found)[:3] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(class_iou(found)[3]), "a class that is in no mask has none"
    assert mean_iou(found) == pytest.approx(np.mean(expected), rel=1e-12)
    counted = masks != IGNORED
    assert pixel_accuracy(found) == pytest.approx(100 * (maps == masks)[counted].mean(), rel=1e-12)
    assert mean_iou(overlap(maps, masks)) == mean_iou(found), "classes that are in no mask do not count"


def test_iou_is_of_the_whole_set_not_the_mean_of_images() -> None:
    masks = np.zeros((2, 1, 4), np.uint8)
    masks[0], masks[1, 0, 0] = 1, 1
    maps = masks.copy()
    maps[1] = 0
    found = class_iou(overlap(maps, masks))
    assert found.tolist() == pytest.approx([100 * 3 / 4, 100 * 4 / 5])


def test_what_is_not_finite_is_wrong_and_no_agreement() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(np.float32)
    whole = class_map(logits)
    assert (whole == logits.argmax(1)).all() and finite_images(whole) == 1
    logits[1, 2, 0, 1] = np.nan
    broken = class_map(logits)
    assert broken[1, 0, 1] == NO_CLASS and (broken != whole).sum() == 1 and finite_images(broken) == 0.5
    assert pixel_agreement(broken, broken) == pytest.approx(100 * 17 / 18)
    assert pixel_agreement(broken, whole) == pytest.approx(100 * 17 / 18)
    mask = whole.copy()
    assert pixel_accuracy(overlap(broken, mask)) == pytest.approx(100 * 17 / 18)
    mask[1, 0, 1] = IGNORED
    assert pixel_accuracy(overlap(broken, mask)) == 100, "an ignored pixel does not count, whatever its map says"


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 256, 4, 4), (2, 0, 4, 4)])
def test_only_maps_of_logits(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="logits have shape"):
        class_map(np.zeros(shape, np.float32))


def test_the_interval_is_that_of_drawing_images_by_hand() -> None:
    (ours, masks), (reference, _) = scenes(wrong=0.3), scenes(wrong=0.1)
    mine, before = overlap(ours, masks), overlap(reference, masks)
    generator, by_hand = np.random.default_rng(5), []
    for _ in range(2000):
        drawn = generator.integers(0, len(masks), len(masks))
        by_hand.append(mean_iou(overlap(ours[drawn], masks[drawn])) - mean_iou(overlap(reference[drawn], masks[drawn])))
    low, high = paired_iou_interval(mine, before)
    assert (low, high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])), abs=0.7)
    assert low < mean_iou(mine) - mean_iou(before) < high < 0
    assert paired_iou_interval(before, before) == (0, 0)
    assert (iou_differences(mine, before) == iou_differences(mine, before)).all(), "the same seed draws the same"


def test_images_without_a_pixel_that_counts_are_not_drawn() -> None:
    (ours, masks), (reference, _) = scenes(wrong=0.3), scenes(wrong=0.1)
    masks[2:] = IGNORED
    low, high = paired_iou_interval(overlap(ours, masks), overlap(reference, masks))
    assert np.isfinite([low, high]).all()
    two = paired_iou_interval(overlap(ours[:2], masks[:2]), overlap(reference[:2], masks[:2]))
    assert (low, high) == two


def test_the_comparison_counts_what_changed() -> None:
    (ours, masks), (reference, _) = scenes(wrong=0.3), scenes(wrong=0.1)
    found = compare_maps(ours, reference, masks, CLASSES, [f"images/{index}.jpg" for index in range(len(ours))])
    counted = masks != IGNORED
    right, before = (ours == masks) & counted, (reference == masks) & counted
    assert found["gained_pixels"] == (right & ~before).sum() and found["lost_pixels"] == (before & ~right).sum()
    assert [row["label"] for row in found["per_class"]] == list(CLASSES[:3])
    for index, row in enumerate(found["per_class"]):
        assert row["pixels"] == (masks == index).sum()
        assert row["iou"] == pytest.approx(class_iou(overlap(ours, masks))[index])
    moved = found["confusion_moved"][0]
    label, predicted = CLASSES.index(moved["label"]), CLASSES.index(moved["predicted"])
    assert moved["engine"] == ((masks == label) & (ours == predicted)).sum()
    assert moved["reference"] == ((masks == label) & (reference == predicted)).sum()
    differing = [row["differing"] for row in found["images"]]
    assert differing == sorted(differing, reverse=True) and len(differing) == 6
    most = (ours != reference).reshape(len(ours), -1).mean(axis=1).argmax()
    assert found["images"][0]["image"] == f"images/{most}.jpg"
    assert compare_maps(reference, reference, masks, CLASSES, ["x"] * len(ours))["images"] == []


def test_maps_of_other_images_are_refused() -> None:
    maps, masks = scenes()
    with pytest.raises(ValueError, match="do not belong to one evaluation"):
        compare_maps(maps[1:], maps, masks, CLASSES, ["x"] * len(maps))
    with pytest.raises(ValueError, match="wanted one shape"):
        overlap(maps[1:], masks)
    with pytest.raises(ValueError, match="wanted the same images"):
        pixel_agreement(maps[1:], maps)


def test_both_tasks_answer_alike() -> None:
    """The interface, on logits of each kind: a perfect engine and one that is wrong."""
    generator = np.random.default_rng(0)
    for name, shape, labels in (
        ("classification", (30, 4), generator.integers(0, 4, 30)),
        ("segmentation", (30, 4, 4, 4), generator.integers(0, 4, (30, 4, 4)).astype(np.uint8)),
    ):
        task = task_named(name)
        logits = generator.normal(size=shape).astype(np.float32)
        np.put_along_axis(logits, np.expand_dims(labels, 1).astype(np.int64), 9.0, axis=1)
        right, wrong = task.answers(logits), task.answers(-logits)
        assert task.scores(right, labels)[task.words.score] == 100
        assert task.scores(wrong, labels)[task.words.score] == 0
        assert set(task.scores(right, labels)) == {task.words.score, task.words.second}
        assert task.agreement(right, right) == 100 and task.agreement(right, wrong) < 50
        assert task.interval(wrong, right, labels) == (-100, -100)
        assert task.finite_fraction(right) == 1 and task.finite_fraction(task.answers(logits * np.nan)) == 0
        assert task.other_images(right, right) == "" and task.other_images(right, wrong) != ""
        assert task.output_shape(4, (4, 4)) == shape[1:]
    assert list(TASKS) == ["classification", "segmentation"]
