"""The audit: what makes a calibration set unfit is refused with figures, and right sets pass, by a real trained network."""

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from calib import leak
from calib.audit import Against, Audit, audit_calibration_set
from calib.calibration import CalibrationSet, write_calibration_set
from calib.calibration_source import draw_calibration_images
from calib.colour_order import Logits, ask_network, compare_statistics, one_sided_p
from calib.errors import InputError
from calib.images import ImageSplit, read_split
from calib.pixels import PixelMeter, grey_images, signatures
from calib.preprocess import Image, Preprocess, load_batch

SPEC = Preprocess(32, 32, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CLASSES = ("blue", "green", "red")


def coloured(label: int, seed: int) -> Image:
    """A textured picture (40, 48, 3) whose leading channel is that of its class; red ones are the most."""
    generator = np.random.default_rng(1000 * label + seed)
    texture = cv2.resize(generator.integers(0, 256, (10, 12, 3), dtype=np.uint8), (48, 40)).astype(float)
    tint = np.full(3, 0.6)
    tint[{"red": 0, "green": 1, "blue": 2}[CLASSES[label]]] = 0.9
    return (texture * tint + 15).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 evaluation pictures of each colour."""
    folder = tmp_path_factory.mktemp("coloured")
    for split, seeds in (("train", range(24)), ("val", range(100, 108))):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for seed in seeds:
                cv2.imwrite(str(folder / split / name / f"{seed}.png"), coloured(label, seed)[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def splits(root: Path) -> tuple[ImageSplit, ImageSplit]:
    return read_split(root, "train"), read_split(root, "val")


@pytest.fixture(scope="module")
def network(splits: tuple[ImageSplit, ImageSplit]) -> Logits:
    """A small convolutional network that was trained to tell the colours apart."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    labels = torch.tensor(splits[0].labels)

    def prepare(images: Image) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

    batch = prepare(load_batch(list(splits[0].paths), SPEC))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()

    def logits(images: Image) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(prepare(images)).numpy()

    assert (logits(load_batch(list(splits[1].paths), SPEC)).argmax(1) == splits[1].labels).mean() > 0.9
    return logits


@pytest.fixture(scope="module")
def images(splits: tuple[ImageSplit, ImageSplit]) -> tuple[Image, NDArray[np.int64]]:
    """The training images, preprocessed, and their labels."""
    return load_batch(list(splits[0].paths), SPEC), np.asarray(splits[0].labels, dtype=np.int64)


def look(
    splits: tuple[ImageSplit, ImageSplit], images: Image, labels: NDArray[np.int64], logits: Logits | None = None
) -> Audit:
    names = tuple(f"mine/{index}" for index in range(len(images)))
    return audit_calibration_set(CalibrationSet(images, labels, names), Against(SPEC, *splits, logits=logits))


def test_a_right_set_passes(splits, network: Logits, tmp_path: Path) -> None:
    draw = draw_calibration_images(None, splits[0], SPEC, 48, 0)
    made = write_calibration_set(draw, SPEC, tmp_path / "c.npz")
    audit = audit_calibration_set(made, Against(SPEC, *splits, draw.files, network))
    audit.refuse()
    assert audit.per_class == [16, 16, 16] and not audit.duplicates and not audit.leak.same and not audit.leak.near
    assert audit.network is not None and audit.network.verdict == "right" and audit.grey == 0 and not audit.warnings
    pixels = made.images.reshape(-1, 3) / 255
    assert audit.mean == pytest.approx(pixels.mean(0), abs=1e-4) and audit.std == pytest.approx(pixels.std(0), abs=1e-4)
    text = "\n".join(audit.lines())
    for part in (
        "48, fingerprint",
        "16 to 16 images of each of 3",
        "files of 24 and pixels of 24",
        "order right by the network",
    ):
        assert part in text
    again = audit_calibration_set(made, Against(SPEC, *splits, draw.files, network))
    assert json.dumps(audit.to_dict()) == json.dumps(again.to_dict())  # no times: the next stage would start anew
    assert audit.to_dict()["accepted"] and audit.to_dict()["per_class"] == dict.fromkeys(CLASSES, 16)


def test_the_demos_grey_photographs_pass(image_root: Path, spec: Preprocess, tmp_path: Path) -> None:
    train, val = read_split(image_root, "train"), read_split(image_root, "val")
    draw = draw_calibration_images(None, train, spec, 30, 0)
    made = write_calibration_set(draw, spec, tmp_path / "c.npz")
    audit = audit_calibration_set(made, Against(spec, train, val, draw.files, lambda batch: np.zeros((len(batch), 3))))
    audit.refuse()
    assert audit.grey == 1 and audit.network is not None and audit.network.verdict == "undecided"
    assert "100 % grey; order undecided by the network: the images are grey" in "\n".join(audit.lines())


def _swapped(images, labels):
    return images[..., ::-1], labels


def _constant(images, labels):
    changed = images.copy()
    changed[[2, 9]] = (200, 30, 30)
    return changed, labels


def _few(images, labels):
    return images[::5][:15], labels[::5][:15]


def _repeated(images, labels):
    return np.repeat(images[::24], 20, axis=0), np.repeat(labels[::24], 20)


def _one_class(images, labels):
    return images[labels == 1], labels[labels == 1]


@pytest.mark.parametrize(
    ("spoils", "message"),
    [
        (_swapped, r"blue where the network expects red\n.*top-1 \d+\.\d % as given, \d+\.\d % with red[\s\S]*::-1\]"),
        (_constant, r"2 of 72 calibration images are one colour throughout\n  got: mine/2, mine/9\n"),
        (_few, r"too few images\n  got: 15 images\n  allowed: at least 16 different"),
        (_repeated, r"too few images\n  got: 60 images, 3 of them different"),
        (_one_class, r"2 of the model's 3 classes have no calibration image\n  got: blue, red\n"),
    ],
)  # fmt: skip
def test_refused(splits, images, network: Logits, spoils, message: str) -> None:
    audit = look(splits, *spoils(*images), logits=network)
    assert not audit.to_dict()["accepted"] and any(line.startswith("refused") for line in audit.lines())
    with pytest.raises(InputError, match=message):
        audit.refuse()


@pytest.mark.parametrize("known", [True, False])
def test_swapped_images_without_labels(splits, images, known: bool) -> None:
    """A network made by hand, sure where red or green leads; blue is nothing to it. Without labels it still shows."""

    def warm(batch: Image) -> NDArray[np.float32]:
        red, green, blue = np.moveaxis(batch.mean(axis=(1, 2)), 1, 0)
        return np.stack([red * 0, np.maximum(green - np.maximum(red, blue), 0), np.maximum(red - blue, 0)], axis=1) / 4

    chosen = images[1] > 0  # green and red
    pixels, labels = images[0][chosen], images[1][chosen] if known else np.full(chosen.sum(), -1)
    right = ask_network(pixels, labels, warm)
    assert right.verdict == "right", right
    assert look(splits, pixels, np.full(len(pixels), -1), warm).problems == []
    found = ask_network(pixels[..., ::-1], labels, warm)
    assert found.verdict == "wrong" and ("top-1" in found.text) == known
    with pytest.raises(InputError, match=r"colour order is wrong[\s\S]*mean confidence 0\.\d+ as given, 0"):
        look(splits, pixels[..., ::-1], np.full(len(pixels), -1), warm).refuse()


def test_fewer_images_than_classes_are_no_objection(splits, images) -> None:
    """512 images of ImageNet's 1,000 classes are what everybody calibrates with."""
    many = tuple(f"class_{index:02d}" for index in range(80))
    train = ImageSplit(splits[0].root, many, splits[0].names, splits[0].labels)
    audit_calibration_set(CalibrationSet(*images), Against(SPEC, train, splits[1])).refuse()


def test_all_reasons_are_said_at_once(splits, images) -> None:
    with pytest.raises(
        InputError, match=r"unfit for 2 reasons[\s\S]*too few images: 3 images[\s\S]*one colour throughout: mine/1"
    ):
        spoilt, labels = images[0][::24].copy(), images[1][::24]
        spoilt[1] = 7
        look(splits, spoilt, labels).refuse()


# --- leaks -----------------------------------------------------------------------------------------------------------


def _renamed(source: Path, folder: Path) -> None:
    shutil.copy(source, folder / "holiday.png")


def _saved_anew(source: Path, folder: Path) -> None:
    image = cv2.imread(str(source))
    cv2.imwrite(str(folder / "holiday.bmp"), image)


@pytest.mark.parametrize("leaks", [_renamed, _saved_anew])
def test_an_evaluation_image_is_found_under_another_name(splits, root: Path, tmp_path: Path, leaks) -> None:
    folder = shutil.copytree(root / "train", tmp_path / "source")
    leaks(root / "val" / "green" / "103.png", folder / "red")
    draw = draw_calibration_images(folder, splits[0], SPEC, 73, 0)
    made = write_calibration_set(draw, SPEC, tmp_path / "c.npz")
    audit = audit_calibration_set(made, Against(SPEC, *splits, draw.files))
    assert len(audit.leak.same) == 1
    with pytest.raises(
        InputError,
        match=r"1 of 73 calibration images are evaluation images[\s\S]*red/holiday\.\w+ = val/green/103\.png",
    ):
        audit.refuse()


def test_evaluation_pixels_in_an_npz_are_found(splits, images) -> None:
    val = load_batch(list(splits[1].paths[:3]), SPEC)
    both, labels = np.concatenate([images[0], val, val[:1]]), np.concatenate([images[1], [0, 0, 0, 0]])
    with pytest.raises(
        InputError, match=r"4 of 76 calibration images are evaluation images[\s\S]*mine/72 = val/blue/100.png"
    ):
        look(splits, both, labels).refuse()


def test_a_jpeg_of_an_evaluation_image_is_warned_of(splits, images) -> None:
    val = load_batch(list(splits[1].paths[:1]), SPEC)
    options = [cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    jpeg = cv2.imdecode(cv2.imencode(".jpg", val[0], options)[1], cv2.IMREAD_COLOR)
    assert (jpeg != val[0]).mean() > 0.3
    audit = look(splits, np.concatenate([images[0], jpeg[None]]), np.append(images[1], 0))
    audit.refuse()
    assert audit.leak.near == [("mine/72", "val/blue/100.png")]
    assert any("1 images look nearly like evaluation images" in warning for warning in audit.warnings)


def test_of_very_many_evaluation_images_files_are_all_compared_and_pixels_of_some(
    splits, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak, "PIXEL_LIMIT", 5)
    folder = shutil.copytree(root / "val", tmp_path / "source")
    draw = draw_calibration_images(folder, splits[0], SPEC, 24, 0)
    made = write_calibration_set(draw, SPEC, tmp_path / "c.npz")
    audit = audit_calibration_set(made, Against(SPEC, *splits, draw.files))
    assert (audit.leak.files, audit.leak.pixels, len(audit.leak.same)) == (24, 5, 24)
    rows = audit_calibration_set(CalibrationSet(made.images, made.labels), Against(SPEC, *splits))
    assert (rows.leak.files, rows.leak.pixels, len(rows.leak.same)) == (0, 5, 5)


# --- what is only reported -------------------------------------------------------------------------------------------


def test_duplicates_are_reported(splits, images) -> None:
    audit = look(splits, np.concatenate([images[0], images[0][3:5]]), np.append(images[1], [0, 0]))
    audit.refuse()
    assert audit.duplicates == [("mine/72", "mine/3"), ("mine/73", "mine/4")]
    assert audit.to_dict()["duplicates"] == {"count": 2, "examples": audit.duplicates}
    assert any("2: mine/72 = mine/3; mine/73 = mine/4" in line for line in audit.lines())


@pytest.mark.parametrize(
    ("change", "warned"),
    [(lambda x: x, False), (lambda x: x // 4, True), (lambda x: x // 2 + 127, True), (lambda x: x // 8 + 100, True)],
)
def test_far_from_the_specs_mean_and_std(splits, images, change, warned: bool) -> None:
    audit = look(splits, change(images[0]), images[1])
    audit.refuse()
    assert any("far from the spec's" in warning for warning in audit.warnings) == warned


def test_the_fingerprint_is_of_pixels_order_and_preprocessing(splits, images) -> None:
    def fingerprint(pixels: Image, spec: str) -> str:
        meter = PixelMeter(spec)
        for start in range(0, len(pixels), 7):
            meter.add(pixels[start : start + 7])
        return meter.fingerprint()

    first = fingerprint(images[0], SPEC.sha256())
    assert first == look(splits, *images).fingerprint
    assert len({first, fingerprint(images[0][::-1], SPEC.sha256()), fingerprint(images[0], "another")}) == 3


# --- colour order ----------------------------------------------------------------------------------------------------


def test_statistics_alone_only_warn(splits, images) -> None:
    red = images[1] != 0  # training images that lean to red: without the blue ones
    train = ImageSplit(
        splits[0].root, ("green", "red"), splits[0].names[24:], tuple(label - 1 for label in splits[0].labels[24:])
    )
    for flip, verdict in ((1, "right"), (-1, "wrong")):
        part = images[0][red][..., ::flip]
        audit = audit_calibration_set(CalibrationSet(part, images[1][red] - 1), Against(SPEC, train, splits[1]))
        audit.refuse()
        assert audit.statistics.verdict == verdict
        assert any("red and blue may be swapped" in text for text in audit.warnings) == (verdict == "wrong")


def test_colour_images_for_a_network_of_grey_ones(splits, images, network: Logits, tmp_path: Path) -> None:
    """There is no training image whose colours could be compared: statistics say nothing, and nothing is refused."""
    for split in splits:
        for path in split.paths:
            copy = tmp_path / path.relative_to(split.root.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(copy), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    grey = read_split(tmp_path, "train"), read_split(tmp_path, "val")
    audit = look(grey, *images)
    audit.refuse()
    assert audit.statistics.verdict == "undecided" and "fewer than 16 images in colour" in audit.statistics.text
    assert audit.grey == 0 and audit.network is None
    assert look(grey, *images, network).network == look(splits, *images, network).network


def test_files_we_decoded_ourselves_blame_the_network(splits, network: Logits, tmp_path: Path) -> None:
    draw = draw_calibration_images(None, splits[0], SPEC, 72, 0)
    made = write_calibration_set(draw, SPEC, tmp_path / "c.npz")

    def bgr(batch: Image) -> NDArray[np.float32]:
        return network(np.ascontiguousarray(batch[..., ::-1]))

    with pytest.raises(InputError, match="a network trained on red, green, blue"):
        audit_calibration_set(made, Against(SPEC, *splits, draw.files, bgr)).refuse()


@pytest.mark.parametrize(("order", "verdict", "share"), [(1, "right", 4), (-1, "wrong", 1)])
def test_a_quarter_is_enough_to_find_the_order_right_but_never_wrong(
    images, order: int, verdict: str, share: int
) -> None:
    asked = 0

    def leading(batch: Image) -> NDArray[np.float32]:
        nonlocal asked
        asked += len(batch)
        return batch.mean(axis=(1, 2)).astype(np.float32)[:, ::-1]

    pixels, labels = images[0].repeat(4, axis=0)[..., ::order], images[1].repeat(4)
    found = ask_network(pixels, labels, leading)
    assert found.verdict == verdict and asked == 2 * len(pixels) // share
    assert f"({len(pixels) // share} images)" in found.text


def test_a_network_blind_to_colour_decides_nothing(images) -> None:
    def blind(batch: Image) -> NDArray[np.float32]:
        means = batch.mean(axis=(1, 2, 3))
        return np.stack([means, 128 - means, means * 0], axis=1).astype(np.float32)

    for pixels in (images[0], images[0][..., ::-1]):
        for labels in (images[1], images[1] * 0 - 1):
            assert ask_network(pixels, labels, blind).verdict == "undecided"


def test_a_little_surer_throughout_is_no_proof(images) -> None:
    """A sign test alone would refuse: every image is a little surer swapped."""

    def biased(batch: Image) -> NDArray[np.float32]:
        lean = batch[..., 2].mean(axis=(1, 2)) - batch[..., 0].mean(axis=(1, 2))
        return np.stack([1 + np.sign(lean) * 0.05, lean * 0], axis=1).astype(np.float32)

    blue_is_less = images[0][images[1] == 2]
    found = ask_network(blue_is_less, np.full(len(blue_is_less), -1), biased)
    assert found.figures["surer_swapped"] == 24 and found.verdict == "undecided"


def test_right_sets_are_not_refused_by_chance(network: Logits) -> None:
    """The network on pure noise, where either order is as good: no verdict in 20 sets, labelled or not."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        noise = generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
        for labels in (generator.integers(0, 3, 64), np.full(64, -1)):
            assert ask_network(noise, labels, network).verdict != "wrong"


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (3, 0), (10, 0), (9, 1), (40, 20), (20, 40), (128, 128)])
def test_the_p_value_is_the_binomials(wins: int, losses: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
    assert math.isclose(one_sided_p(wins, losses), expected, rel_tol=1e-9)


def test_statistics_say_nothing_without_colour_or_difference() -> None:
    generator = np.random.default_rng(0)
    same = generator.normal(100, 20, (60, 3))
    assert compare_statistics(same, generator.normal(100, 20, (60, 3))).verdict == "undecided"
    assert compare_statistics(same[:5], same).verdict == "undecided"


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (30, 45), (8, 8), (3, 5)])
def test_signatures_are_cell_means(shape: tuple[int, int]) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
    made = signatures(batch)
    rows, columns = (np.linspace(0, size, min(8, size) + 1).astype(int) for size in shape)
    cells = [
        batch[:, top:bottom, left:right].mean(axis=(1, 2))
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    difference = np.abs(made - np.concatenate(cells, axis=1)).max()
    assert difference < 1e-3, f"max {difference:.2e}"


def test_no_images_have_no_signatures() -> None:
    assert signatures(np.zeros((0, 30, 45, 3), np.uint8)).shape == (0, 8 * 8 * 3)


def test_a_grey_jpeg_is_grey(tmp_path: Path) -> None:
    grey = np.repeat(
        cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 4, 1), dtype=np.uint8), (32, 32))[..., None], 3, axis=2
    )
    jpeg = cv2.imdecode(cv2.imencode(".jpg", grey)[1], cv2.IMREAD_COLOR)
    tinted = grey.copy()
    tinted[3, 4] = (255, 0, 0)
    assert grey_images(np.stack([grey, jpeg, tinted])).tolist() == [True, True, False]


def test_a_class_that_no_image_can_be_of_is_no_objection(splits, images) -> None:
    """`data.classes` may name more classes than there are images of; one that the training images have must be there."""
    train, val = (replace(split, classes=(*split.classes, "nowhere")) for split in splits)
    audit = audit_calibration_set(CalibrationSet(*images), Against(SPEC, train, val))
    audit.refuse()
    assert audit.per_class is not None and audit.per_class[-1] == 0


def test_a_set_drawn_from_the_evaluation_images_is_a_warning(splits) -> None:
    """There is nothing else to draw from: comparing the two would only say so again."""
    train, val = splits
    none = replace(train, names=(), labels=())
    made = CalibrationSet(load_batch(list(val.paths), SPEC), np.asarray(val.labels))
    audit = audit_calibration_set(made, Against(SPEC, none, val, val.paths, from_evaluation=True))
    audit.refuse()
    assert "drawn from the evaluation images" in audit.warnings[0]
    assert "evaluation not compared: the set is drawn from them" in audit.lines()
    with pytest.raises(InputError, match="are evaluation images"):
        audit_calibration_set(made, Against(SPEC, train, val, val.paths)).refuse()
