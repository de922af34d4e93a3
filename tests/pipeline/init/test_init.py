"""`t2t-edge init` on folders as people have them: what it writes, what it leaves as it is, and what it refuses."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from schema_check import violations

from calib.images import read_split
from calib.preprocess import load_image
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.init import choose as chosen
from pipeline.init import link
from pipeline.recipe import load_recipe
from pipeline.training.network import own_size

Printed = pytest.CaptureFixture[str]
COLOURS = {"cat": (200, 60, 40), "dog": (60, 180, 60), "owl": (40, 60, 200)}  # red, green, blue


def draw(path: Path, name: str, seed: int, width: int = 60, height: int = 48) -> Path:
    """A photo of a class: its colour with noise, another one for each seed."""
    noise = np.random.default_rng([seed, len(name), ord(name[0])]).integers(-40, 40, (height, width, 3))
    image = np.clip(np.asarray(COLOURS.get(name, (128, 128, 128))) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def write_classes(folder: Path, count: int = 20, start: int = 0) -> None:
    for name in COLOURS:
        for seed in range(start, start + count):
            draw(folder / name / f"{seed:03d}.png", name, seed)


def states(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def sides(root: Path) -> tuple[set[bytes], set[bytes]]:
    """The pixels of the train images and of the val images."""
    train = read_split(root, "train")
    val = read_split(root, "val", train.classes, may_lack=True)
    return tuple({load_image(path).tobytes() for path in split.paths} for split in (train, val))  # type: ignore[return-value]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(printed: Printed, *arguments: str) -> str:
    """The message of `t2t-edge init`; nothing was written."""
    before = sorted(Path().rglob("*"))
    assert main(["init", *arguments]) == WRONG_INPUT
    assert sorted(Path().rglob("*")) == before
    return printed.readouterr().err


# --- splits ----------------------------------------------------------------------------------------------------------


def test_classes_alone_are_split_by_content(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos")
    shutil.copyfile(here / "photos/cat/000.png", here / "photos/cat/copy of 000.png")  # the same bytes
    for name in ("001", "002", "003"):  # the same pixels in other bytes
        image = cv2.imread(str(here / f"photos/dog/{name}.png"))
        assert cv2.imwrite(str(here / f"photos/dog/{name}.bmp"), image)
    draw(here / "photos/owl/2023/summer/7.png", "owl", 900)  # deeper than its class
    (here / "photos/owl/@eaDir").mkdir()
    (here / "photos/notes").mkdir()
    before = states(here / "photos")
    assert main(["init", "photos"]) == DONE
    printed = capsys.readouterr().out
    assert states(here / "photos") == before
    recipe = load_recipe(Path("photos.yaml"))
    assert recipe.data.root == Path("photos-split") and recipe.data.name == "photos"
    train = read_split(recipe.data.root, "train")
    val = read_split(recipe.data.root, "val", train.classes)
    assert train.classes == ("cat", "dog", "owl")
    assert (len(train), len(val)) == (65 - len(val), len(val)) and 11 <= len(val) <= 13
    assert set(val.labels) == {0, 1, 2}
    of_train, of_val = sides(recipe.data.root)
    assert not of_train & of_val and len(of_train | of_val) == 61
    assert "owl/2023__summer__7.png" in train.names + val.names
    linked = next(path for path in (*train.paths, *val.paths) if path.name == "000.png" and path.parent.name == "owl")
    assert linked.samefile(here / "photos/owl/000.png")
    for said in ("65 images in 3 classes (cat, dog, owl), median 60×48 pixels", "4 images with the pixels of another one",
                 "@eaDir", "left out (no images): photos/notes/", "photos-split: hard links, no copies"):  # fmt: skip
        assert said in printed, said


def test_the_split_depends_on_pixels_alone_and_survives_moves(here: Path) -> None:
    write_classes(here / "photos")
    assert main(["init", "photos"]) == DONE
    first = sides(Path("photos-split"))
    other = here / "elsewhere" / "renamed"
    for path in sorted((here / "photos").rglob("*.png")):
        target = other / path.parent.name / f"z{path.stem[::-1]}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert main(["init", str(other), "--recipe", "other.yaml", "--split", "made"]) == DONE
    assert sides(Path("made")) == first
    shutil.rmtree(here / "photos")
    Path("photos-split").rename(here / "moved")
    assert sides(Path("moved")) == first


def test_a_second_recipe_uses_the_same_split(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos")
    assert main(["init", "photos"]) == DONE
    before = states(here / "photos-split")
    assert main(["init", "photos", "--recipe", "second.yaml"]) == DONE
    assert "photos-split: as an earlier init made it" in capsys.readouterr().out
    assert states(here / "photos-split") == before
    draw(here / "photos/cat/new.png", "cat", 77)
    assert "--split OTHER" in refused(capsys, "photos", "--recipe", "third.yaml")


def test_a_picture_in_two_classes_is_named_and_goes_to_train(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos")
    for seed in range(8):
        shutil.copyfile(here / f"photos/cat/{seed:03d}.png", here / f"photos/dog/cat{seed}.png")
    assert main(["init", "photos"]) == DONE
    assert "the same picture is in several classes" in (out := capsys.readouterr().out) and "cat and dog" in out
    of_train, of_val = sides(Path("photos-split"))
    both = {load_image(here / f"photos/cat/{seed:03d}.png").tobytes() for seed in range(8)}
    assert both <= of_train and not both & of_val


def test_a_class_of_one_picture_is_trained_and_named(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos")
    for number in range(3):
        draw(here / f"photos/rare/{number}.png", "rare", 5)
    assert main(["init", "photos"]) == DONE
    assert "1 of 4 classes without evaluation images" in capsys.readouterr().out
    assert len(list(Path("photos-split/train/rare").iterdir())) == 3 and not Path("photos-split/val/rare").exists()


def test_splits_that_are_there_are_used_as_they_are(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos/train")
    write_classes(here / "photos/val", 5, 100)
    draw(here / "photos/test/cat/0.png", "cat", 200)
    before = sorted(here.rglob("*"))
    assert main(["init", "photos"]) == DONE
    assert sorted(here.rglob("*")) == sorted([*before, here / "photos.yaml"])
    assert load_recipe(Path("photos.yaml")).data.root == Path("photos")
    printed = capsys.readouterr().out
    assert (
        "found: photos/train to train on, photos/val for evaluation" in printed and "not used: photos/test/" in printed
    )


@pytest.mark.parametrize("names", [("train", "valid"), ("Training", "Validation"), ("train", "test")])
def test_splits_of_other_names_are_linked(here: Path, capsys: Printed, names: tuple[str, str]) -> None:
    write_classes(here / "photos" / names[0])
    write_classes(here / "photos" / names[1], 5, 100)
    assert main(["init", "photos"]) == DONE
    assert f"found: photos/{names[0]} to train on, photos/{names[1]} for evaluation" in capsys.readouterr().out
    assert [len(read_split(Path("photos-split"), split)) for split in ("train", "val")] == [60, 15]


def test_train_may_be_a_class(here: Path) -> None:
    for name, like in (("bus", "cat"), ("car", "dog"), ("train", "owl")):
        for seed in range(20):
            draw(here / "photos" / name / f"{seed}.png", like, seed)
    assert main(["init", "photos"]) == DONE
    assert read_split(Path("photos-split"), "train").classes == ("bus", "car", "train")


def test_train_alone_is_split(here: Path) -> None:
    write_classes(here / "photos/train")
    assert main(["init", "photos"]) == DONE
    assert [len(read_split(Path("photos-split"), split)) for split in ("train", "val")] == [48, 12]


def test_without_hard_links_images_are_copied(here: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(link.os, "link", no_links)
    write_classes(here / "photos")
    assert main(["init", "photos"]) == DONE
    assert "MB of copies, as hard links are not possible there" in capsys.readouterr().out
    assert [len(read_split(Path("photos-split"), split)) for split in ("train", "val")] == [48, 12]


# --- the recipe ------------------------------------------------------------------------------------------------------


def test_the_recipe_names_a_schema_that_it_fits(here: Path) -> None:
    write_classes(here / "my photos")
    (here / "recipes").mkdir()
    assert main(["init", "my photos", "--recipe", "recipes/mine.yaml"]) == DONE
    text = Path("recipes/mine.yaml").read_text(encoding="utf-8")
    place = here / "recipes" / text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    schema = json.loads(place.read_text(encoding="utf-8"))
    assert list(violations(yaml.safe_load(text), schema, schema)) == []
    assert max(map(len, text.splitlines())) <= 130


def test_the_line_in_its_comment_is_a_model(here: Path) -> None:
    write_classes(here / "photos")
    assert main(["init", "photos"]) == DONE
    lines = Path("photos.yaml").read_text(encoding="utf-8").splitlines()
    (model,) = [index for index, line in enumerate(lines) if line.startswith("model:")]
    (other,) = [line.removeprefix("# ") for line in lines if line.startswith("# model:")]
    lines[model] = other
    Path("other.yaml").write_text("\n".join(lines))
    model = load_recipe(Path("other.yaml")).model
    assert model.pretrained and own_size(model) == 224


def test_mean_and_std_are_those_of_the_images(here: Path) -> None:
    write_classes(here / "photos/train")
    write_classes(here / "photos/val", 5, 100)
    assert main(["init", "photos"]) == DONE
    part = load_recipe(Path("photos.yaml")).preprocess
    pixels = (
        np.concatenate([load_image(path).reshape(-1, 3) for path in read_split(here / "photos", "train").paths]) / 255
    )
    assert np.allclose(part.mean, pixels.mean(axis=0), atol=6e-4) and np.allclose(
        part.std, pixels.std(axis=0), atol=6e-4
    )


@pytest.mark.parametrize("name", ["yes", "2023", "a: b, {c} #d", "Füße", "-"])
def test_any_name_of_a_folder_is_text(here: Path, name: str) -> None:
    write_classes(here / name)
    assert main(["init", f"./{name}", "--recipe", "mine.yaml"]) == DONE
    recipe = load_recipe(Path("mine.yaml"))
    assert recipe.data.name == name and recipe.data.root == Path(f"{name}-split")


def test_the_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(here / "photos")
    monkeypatch.chdir(here / "photos")
    assert main(["init", ".", "--recipe", "../mine.yaml"]) == DONE
    assert load_recipe(here / "mine.yaml").data.root == here / "photos-split"


@pytest.mark.parametrize(
    ("images", "width", "height", "gpu", "expected"),
    [
        (300, 28, 28, None, ("t2t_vit_mini", 32)),
        (300, 64, 64, None, ("resnet18", 64)),
        (300, 4000, 3000, None, ("resnet18", 128)),
        (300, 4000, 3000, "a GPU", ("resnet18", 128)),
        (9_000, 500, 375, None, ("resnet18", 128)),
        (1_000_000, 500, 375, None, ("t2t_vit_mini", 32)),
        (9_000, 500, 375, "a GPU", ("resnet18", 224)),
        (50_000, 500, 375, "a GPU", ("t2t_vit_7", 224)),
        (1_000_000, 500, 375, "a GPU", ("t2t_vit_14", 224)),
    ],
)
def test_network_and_size_fit_images_and_machine(
    monkeypatch: pytest.MonkeyPatch, images: int, width: int, height: int, gpu: str | None, expected: tuple[str, int]
) -> None:
    monkeypatch.setattr(chosen, "gpu_name", lambda: gpu)
    choice = chosen.choose(images, width, height)
    assert (choice.network, choice.side) == expected
    assert 1 <= choice.epochs <= 100 and choice.batch <= images


def test_what_is_chosen_is_also_json(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos")
    assert main(["init", "photos", "--json"]) == DONE
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"] == "photos.yaml" and document["root"] == "photos-split"
    assert document["classes"] == list(COLOURS) and document["images"] == {"train": 48, "val": 12}
    assert document["next"] == "t2t-edge run --recipe photos.yaml --run photos"
    backends = {engine["backend"] for engine in document["engines"]}
    assert backends >= {"onnxruntime", "openvino"} and "executorch" not in backends, "for phones where it is asked for"


# --- what is refused -------------------------------------------------------------------------------------------------


def one_class(folder: Path) -> None:
    for seed in range(20):
        draw(folder / "all" / ("cat" if seed % 2 else "dog") / f"{seed}.png", "cat", seed)


def loose(folder: Path) -> None:
    for seed in range(20):
        draw(folder / f"{seed}.png", "cat", seed)


def damaged(folder: Path) -> None:
    write_classes(folder)
    (folder / "cat/000.png").write_bytes((folder / "cat/000.png").read_bytes()[:20])


def in_both(folder: Path) -> None:
    write_classes(folder / "train")
    write_classes(folder / "val", 5, 18)


def other_classes(folder: Path) -> None:
    write_classes(folder / "train")
    draw(folder / "val/cow/1.png", "cow", 3)


def no_train(folder: Path) -> None:
    write_classes(folder / "val")


def splits_without_classes(folder: Path) -> None:
    loose(folder / "train")
    loose(folder / "val")


def masks(folder: Path) -> None:
    loose(folder / "train" / "images")
    loose(folder / "train" / "masks")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda folder: None, ("there is no such folder of images",)),
        (masks, ("photos/train has images with masks", "recipes/segmentation.yaml")),
        (lambda folder: folder.mkdir(), ("photos has no images",)),
        (loose, ("photos has no images by class", "20 images in no class folder")),
        (one_class, ("photos has only one class", "all: 20 images", "t2t-edge init 'photos/all'")),
        (damaged, ("1 of 60 images cannot be decoded", "photos/cat/000.png")),
        (in_both, ("also in train",)),
        (other_classes, ("photos/val has classes that train has not", "cow")),
        (no_train, ("photos has no train images by class",)),
        (splits_without_classes, ("photos has no train images by class", "the folders train, val")),
        (lambda folder: write_classes(folder, 4), ("photos has too few images", "at least 16 different ones")),
    ],
)
def test_images_that_no_recipe_can_be_written_for(
    here: Path, capsys: Printed, write: Callable[[Path], None], said: tuple[str, ...]
) -> None:
    write(here / "photos")
    message = refused(capsys, "photos")
    for text in said:
        assert text in message, message
    assert message.count("error:") == 1


def test_nothing_is_overwritten(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos")
    Path("photos.yaml").write_text("mine")
    assert "the recipe is there already" in refused(capsys, "photos")
    assert Path("photos.yaml").read_text() == "mine"
    Path("photos-split").mkdir()
    assert "the folder for the splits is there already" in refused(capsys, "photos", "--recipe", "new.yaml")
    assert "there is no folder for the recipe" in refused(capsys, "photos", "--recipe", "nowhere/new.yaml")


# --- it runs ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_takes_it(here: Path, capsys: Printed) -> None:
    write_classes(here / "photos")
    assert main(["init", "photos"]) == DONE
    assert main(["run", "--recipe", "photos.yaml", "--dry-run"]) == DONE
    assert "train: would run" in capsys.readouterr().out


@pytest.mark.slow
def test_it_runs_to_a_report(here: Path, capsys: Printed) -> None:
    """As it is written, but for fewer epochs and engines, which take minutes."""
    write_classes(here / "photos")
    assert main(["init", "photos"]) == DONE
    recipe = yaml.safe_load(Path("photos.yaml").read_text(encoding="utf-8"))
    recipe["train"] |= {"epochs": 3, "warmup_epochs": 0, "workers": 0}
    recipe["build"] = [part for part in recipe["build"] if part["backend"] == "onnxruntime"]
    recipe["benchmark"] |= {"warmup_ms": 0, "rounds": 1, "calls": 2}
    recipe["gate"] = {"min_relative_top1": 0.0}
    Path("few.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", "--recipe", "few.yaml", "--run", "few"]) == DONE
    report = json.loads(Path("runs/few/report/report.json").read_text(encoding="utf-8"))
    assert {row["name"] for row in report["variants"]} >= {"onnxruntime-fp32", "onnxruntime-int8"}
