"""Prediction of a class for each pixel, with a real engine whose answers are known: what is printed, saved, and refused."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from segmentation_run import COLOURS, SPEC

from calib.errors import InputError
from calib.preprocess import load_image, preprocess
from export.engines.sidecar import SIDECAR
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.predict.overlay import overlay
from pipeline.predict.predict import Predictor
from pipeline.predict.prediction import NOT_FINITE
from pipeline.predict.sources import ImageFiles
from pipeline.predict.writers import names_beside
from pipeline.tasks.colours import PALETTE
from pipeline.tasks.pixels import NO_CLASS

HEIGHT, WIDTH = 480, 720  # 3:2, as the network's image
TOP, LEFT = 48, 72  # of the part that is seen, four fifths of each side


def command(run: Path, *arguments: object) -> list[str]:
    return ["predict", "--runs", str(run.parent), "--run", run.name, "--threads", "1", *map(str, arguments)]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red, with a green disc in the middle, a blue bar beside it, and a blue frame that the network does not see."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = (40, 30, 200)
    cv2.circle(image, (360, 240), 120, (60, 180, 50), cv2.FILLED)
    image[150:330, 540:600] = (210, 60, 70)
    for edge in (image[:TOP], image[-TOP:], image[:, :LEFT], image[:, -LEFT:]):
        edge[:] = (220, 20, 20)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    assert cv2.imwrite(str(path), image)
    return path


def brightest(path: Path) -> np.ndarray:
    return load_image(path).argmax(axis=2)


def seen(values: np.ndarray) -> np.ndarray:
    return values[TOP:-TOP, LEFT:-LEFT]


def test_the_index_png_is_the_class_of_each_pixel_of_the_original(
    pixel_run: Path, photo: Path, tmp_path: Path
) -> None:  # fmt: skip
    assert main(command(pixel_run, photo, "--save", tmp_path)) == DONE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.classes.png", "photo.png"]
    found = cv2.imread(str(tmp_path / "photo.classes.png"), cv2.IMREAD_UNCHANGED)
    assert found.shape == (HEIGHT, WIDTH) and found.dtype == np.uint8
    outside = np.ones((HEIGHT, WIDTH), bool)
    seen(outside)[:] = False
    assert ((found == NO_CLASS) == outside).all()
    truth = seen(brightest(photo)).astype(np.uint8)
    wrong = seen(found) != truth
    near = cv2.dilate(cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, np.ones((3, 3))), np.ones((11, 11))) > 0
    assert not (wrong & ~near).any() and wrong.mean() < 0.01  # a pixel of the network is six wide


def test_the_overlay_is_half_the_photo_and_half_the_colour(pixel_run: Path, photo: Path, tmp_path: Path) -> None:
    assert main(command(pixel_run, photo, "--save", tmp_path)) == DONE
    made, original = load_image(tmp_path / "photo.png"), load_image(photo)
    found = cv2.imread(str(tmp_path / "photo.classes.png"), cv2.IMREAD_UNCHANGED)
    assert made.shape == original.shape
    colours = np.vstack([PALETTE, PALETTE[:1]])[found].astype(int)
    wanted = np.where((found == NO_CLASS)[..., None], original, (original + colours) / 2)
    changed = (np.abs(made - wanted) > 0.5).any(axis=2)
    assert 0.005 < changed.mean() < 0.1 and not changed[HEIGHT // 4 :].any() and not changed[:, WIDTH // 3 :].any()
    rows, columns = np.nonzero(changed)  # the legend: dark, with a bright letter or colour in it
    assert rows.min() == columns.min() == 0 and made[changed].min() < 60 and made[changed].max() > 240


def test_text_json_and_csv_say_the_shares(
    pixel_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    assert main(command(pixel_run, photo, "--json", "--csv", table)) == DONE
    line = json.loads(capsys.readouterr().out)
    assert list(line) == ["source", "frame", "seconds", "classes"] and line["source"] == str(photo)
    shares = np.bincount(preprocess(load_image(photo), SPEC).argmax(axis=2).ravel(), minlength=3) / (64 * 96)
    wanted = [{"label": COLOURS[index], "share": float(shares[index])} for index in np.argsort(-shares)]
    assert line["classes"] == wanted and [row["label"] for row in wanted] == ["red", "green", "blue"]  # no purple
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row)[3:] == [f"{key}{place}" for place in ("", "_2", "_3", "_4") for key in ("label", "share")]
    assert (row["label_2"], row["share_2"], row["label_4"], row["share_4"]) == ("green", f"{shares[1]:.6f}", "", "")
    assert main(command(pixel_run, photo, "--top", 2)) == DONE
    text = f"{photo}  red  {100 * shares[0]:.1f} %, green  {100 * shares[1]:.1f} %, …\n"
    assert capsys.readouterr().out == text


def test_a_video_is_covered_frame_by_frame(
    pixel_run: Path, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, blue = tmp_path / "clip.avi", frames[:9] // 2 + np.array((90, 20, 0), np.uint8)  # bluish, as BGR
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (160, 120))
    for frame in blue:
        writer.write(frame)
    writer.release()
    assert main(command(pixel_run, clip, "--save", tmp_path / "saved")) == DONE
    assert capsys.readouterr().out.splitlines()[8].startswith(f"{clip} frame 8 (0.40 s)  blue  ")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["clip.avi"]
    copy = cv2.VideoCapture(str(tmp_path / "saved" / "clip.avi"))
    assert (copy.get(cv2.CAP_PROP_FRAME_COUNT), copy.get(cv2.CAP_PROP_FPS)) == (9, 20)
    for frame in blue.repeat(2, axis=1).repeat(2, axis=2).astype(int):  # 160 × 120 is doubled
        picture = copy.read()[1].astype(int)
        outside, inside = (slice(-18, None), slice(None)), (slice(100, 200), slice(160, 280))
        assert picture.shape == (240, 320, 3) and np.abs(picture[outside] - frame[outside]).mean() < 8
        mixed = (frame + PALETTE[COLOURS.index("blue")][::-1]) / 2
        assert np.abs(picture[inside] - mixed[inside]).mean() < 8 < np.abs(picture[inside] - frame[inside]).mean()


def test_what_is_not_finite_in_one_pixel_is_a_problem(
    pixel_run: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Predictor(pixel_run) as predictor:
        infer = predictor.runner.infer

        def broken(feeds):
            logits = infer(feeds)["logits"].copy()
            logits[0, 1, 5, 7] = np.inf
            return {"logits": logits}

        monkeypatch.setattr(predictor.runner, "infer", broken)
        found = list(predictor.stream(photo, photo))
    assert [one.problem for one in found] == [NOT_FINITE, None]
    assert found[0].class_map is None and found[0].shares == ()
    assert found[1].class_map is not None and found[1].class_map.shape == (64, 96)


def test_index_pngs_have_names_of_their_own_and_replace_no_original(
    pixel_run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("a/x.jpg", "a/x.png", "a/x.classes.png", "y.heic.png")
    names = names_beside([ImageFiles(tuple((Path(name), name) for name in files))], (".classes.png",))
    assert names == {
        "a/x.jpg": ("a/x.classes-2.png",), "a/x.png": ("a/x.classes-3.png",),
        "a/x.classes.png": ("a/x.classes.classes.png",), "y.heic.png": ("y.heic.classes.png",),
    }  # fmt: skip
    first = Path(shutil.copy(photo, tmp_path / "x.png"))
    second = tmp_path / "save" / "x.classes.png"  # a source, whose copy would be another file, and the map of the first
    second.parent.mkdir()
    shutil.copy(photo, second)
    arguments = command(pixel_run, first, second.parent / "..", "--save", second.parent)
    assert main(arguments) == WRONG_INPUT
    printed = capsys.readouterr()
    assert "--save would write over the original" in printed.err and str(second) in printed.err and printed.out == ""
    assert second.read_bytes() == photo.read_bytes() and len(list(second.parent.iterdir())) == 1


def test_an_engine_of_a_task_that_is_not_known(pixel_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pixel_run / "build" / "onnxruntime-fp32", tmp_path / "engine")
    values = json.loads((folder / SIDECAR).read_text())
    assert values["task"] == "segmentation"
    (folder / SIDECAR).write_text(json.dumps(values | {"task": "depth"}))
    with pytest.raises(InputError, match="for a task that is not known here") as caught:
        Predictor(folder)
    assert (caught.value.got, caught.value.allowed) == ("depth", "classification, segmentation")


def test_a_legend_of_many_classes_counts_the_smallest() -> None:
    """It has no room for 100: the picture below it, and right of it, is as without."""
    image, classes = np.full((300, 300, 3), 90, np.uint8), np.full((300, 300), 3, np.uint8)
    many, few = (overlay(image, classes, [(index, "a class") for index in range(count)]) for count in (100, 2))
    plain = overlay(image, classes, [])
    assert (
        (plain == plain[-1, -1]).all() and (many[190:] == plain[190:]).all() and (many[:, 150:] == plain[:, 150:]).all()
    )
    assert (few[45:] == plain[45:]).all() and (few[:30, :30] != plain[:30, :30]).any()
    other = overlay(image, classes, [(index, "a class") for index in range(99)])
    assert (other != many).any()  # + 89 more, + 88 more


def test_a_strip_of_an_image_is_not_enlarged_without_end() -> None:
    from pipeline.predict.annotate import MAX_SIDE, enlarge

    assert enlarge(np.zeros((20, 30, 3), np.uint8)).shape == (240, 360, 3)
    assert enlarge(np.zeros((1, 3000), np.uint8)).shape == (1, 3000)
    assert max(enlarge(np.zeros((10, 900, 3), np.uint8)).shape) <= MAX_SIDE
