"""Finished work is never lost: what another recipe, other images or other code replace is kept, and comes back."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from chain_run import copy_run

from pipeline.artifact import read_artifact
from pipeline.cli import main
from pipeline.console.exit_status import DONE, FAILED, WRONG_INPUT
from pipeline.device.modules import OURS
from pipeline.run import code, kept
from pipeline.training import stage as train_stage

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def finished(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run to change, and the current folder; nothing may train there."""
    folder = copy_run(tiny_run, tmp_path / "work")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(train_stage, "train", lambda *_: pytest.fail("it trains again"))
    return folder


def change(folder: Path, part: str, **values: Any) -> None:
    path = folder / "recipes" / "demo.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe[part] = recipe.get(part, {}) | values
    path.write_text(yaml.safe_dump(recipe))


def ran(printed: Printed, command: str = "run") -> list[str]:
    """The stages that a command runs, and nothing else is made again."""
    printed.readouterr()
    assert main([command]) == DONE
    return re.findall(r"^ *(\w+): running$", printed.readouterr().out, re.MULTILINE)


def keys(folder: Path) -> dict[str, str]:
    manifests = (folder / "runs" / "demo").glob("*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["key"] for path in manifests}


# --- the same images elsewhere --------------------------------------------------------------------------------------


def test_images_moved_and_spelled_otherwise_change_nothing(finished: Path, capsys: Printed) -> None:
    (finished / "images").rename(finished / "elsewhere")
    change(finished, "data", root=str(finished / "recipes" / ".." / "elsewhere"))
    assert ran(capsys) == []
    manifest = json.loads((finished / "runs/demo/report/manifest.json").read_text())
    assert manifest["places"]["data"]["root"].endswith("/elsewhere"), "a bundle takes its images from there"
    assert "root" not in manifest["recipe"]["data"]


def test_a_copied_checkout_changes_nothing(
    finished: Path, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With new times, as `cp -r` and `git clone` leave them."""
    copy = shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(finished)
    monkeypatch.chdir(copy)
    assert ran(capsys) == []


def test_an_archive_unpacked_again_changes_nothing(
    finished: Path, capsys: Printed, photographs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays: dict[str, Any] = {"classes": ["class_0", "class_1", "class_2"]}
    for split, count in (("train", 20), ("val", 10)):
        labels = photographs[f"{split}_labels"]
        chosen = np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(3)])
        arrays |= {f"{split}_images": photographs[f"{split}_images"][chosen], f"{split}_labels": labels[chosen]}
    np.savez(finished / "packed.npz", **arrays)
    change(finished, "data", root="packed")
    monkeypatch.undo()
    monkeypatch.chdir(finished)
    assert main(["train"]) == DONE
    shutil.rmtree(finished / "packed")
    monkeypatch.setattr(train_stage, "train", lambda *_: pytest.fail("it trains again"))
    capsys.readouterr()
    assert main(["train"]) == DONE
    assert "train: unchanged" in capsys.readouterr().out and (finished / "packed" / "val").is_dir()


# --- a value changed and changed back -------------------------------------------------------------------------------


def test_a_value_changed_and_changed_back_makes_nothing_again(finished: Path, capsys: Printed) -> None:
    before = keys(finished)
    change(finished, "quantize", method="percentile")
    assert ran(capsys) == ["quantize", "build", "evaluate", "visualize", "benchmark", "report"]
    other = keys(finished)
    change(finished, "quantize", method="max")
    assert main(["run", "--dry-run"]) == DONE
    said = capsys.readouterr().out
    assert re.search(r"quantize: would be taken back: its result of 20\d\d-.* would be taken back", said)
    assert 'recipe: quantize.method "percentile" → "max"' in said and "would run" not in said and "may run" not in said
    assert ran(capsys) == [] and keys(finished) == before
    change(finished, "quantize", method="percentile")
    assert ran(capsys) == [] and keys(finished) == other
    kept_stages = sorted(path.parent.name for path in (finished / "runs/demo/.kept").glob("*/*"))
    assert kept_stages == ["benchmark", "build", "evaluate", "quantize", "report", "visualize"]


def test_a_finished_training_is_not_replaced_in_silence(
    finished: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed, since when, what is trained for how long, and where the earlier one stays."""
    earlier = finished / "runs" / "demo" / "train"
    weights, manifest = (earlier / "checkpoint.pt").read_bytes(), json.loads((earlier / "manifest.json").read_text())
    trained: list[str] = []

    def train(_: object, folder: Path) -> dict[str, Any]:
        trained.append("once")
        (folder / "checkpoint.pt").write_bytes(b"other weights")
        return {}

    monkeypatch.setattr(train_stage, "train", train)
    photo = finished / "images" / "train" / "class_0" / "000.png"
    original = photo.read_bytes()
    cv2.imwrite(str(photo), cv2.imread(str(photo)) ^ 1)
    shutil.copy(photo, photo.with_name("more.png"))
    change(finished, "train", epochs=7, lr=0.002)
    assert main(["train"]) == DONE
    said = capsys.readouterr().out
    stays = f"runs/demo/.kept/train/{manifest['key'][:16]}"
    for text in (
        f"the finished training of {manifest['finished'][:4]}-", "recipe: train.epochs 1 → 7", "recipe: train.lr 0.001 → 0.002",
        "images: train has changed (1 of 60 changed, 1 new)", "t2t_vit_mini is trained for 7 epochs on 61 images",
        "the earlier one took ", " for 1 epoch\n", stays,
    ):  # fmt: skip
        assert text in said, f"{text!r} is not in\n{said}"
    assert trained == ["once"] and (finished / stays / "checkpoint.pt").read_bytes() == weights

    photo.with_name("more.png").unlink()
    photo.write_bytes(original)
    change(finished, "train", epochs=1, lr=0.001)
    assert main(["train"]) == DONE
    assert "train: taken back, made " in capsys.readouterr().out
    assert (earlier / "checkpoint.pt").read_bytes() == weights and trained == ["once"]


def test_what_decides_nothing_trains_nothing_again(finished: Path, capsys: Printed) -> None:
    change(finished, "train", workers=1, eval_every=3, keep_last=2)
    change(finished, "data", check=False)
    assert main(["benchmark"]) == DONE
    assert "running" not in capsys.readouterr().out


def test_a_damaged_training_is_kept_too(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    """Who cut off, or edited, a checkpoint may want the rest of it."""
    place = finished / "runs" / "demo" / "train"
    (place / "checkpoint.pt").write_bytes(b"edited by hand")
    monkeypatch.setattr(train_stage, "train", lambda _, folder: (folder / "checkpoint.pt").write_bytes(b"new") and {})
    assert main(["train", "--dry-run"]) == DONE
    promised = re.search(r"would stay in (.*)", capsys.readouterr().out)
    assert main(["train"]) == DONE
    said = capsys.readouterr().out
    assert "its files were changed" in said and "is not taken back, as it is damaged" in said
    (aside,) = (finished / "runs/demo/.kept/train").iterdir()
    assert (aside / "checkpoint.pt").read_bytes() == b"edited by hand" and read_artifact(aside) is None
    assert promised is not None and promised[1] in said and aside.samefile(promised[1])
    assert main(["train"]) == DONE
    assert "train: unchanged" in capsys.readouterr().out
    change(finished, "train", lr=0.002)
    assert main(["train"]) == DONE
    assert (aside / "checkpoint.pt").read_bytes() == b"edited by hand", (
        "the whole result of the same key has another place"
    )
    change(finished, "train", lr=0.001)
    assert main(["train"]) == DONE
    assert "train: taken back" in capsys.readouterr().out
    (place / "checkpoint.pt").write_bytes(b"once more")
    assert main(["train"]) == DONE
    kept_files = [path.read_bytes() for path in (finished / "runs/demo/.kept/train").glob("*/checkpoint.pt")]
    assert sorted(kept_files) == [b"edited by hand", b"new", b"once more"]


@pytest.mark.parametrize(
    "manifest", [b"", b"[1]", b'"text"', b"\xff\xfe{", b'{"key": "k", "images": null}', b'{"sizes": [1]}']
)
def test_a_training_whose_manifest_is_damaged_is_not_replaced_in_silence(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed, manifest: bytes
) -> None:
    """As a full disk, a copy that was broken off or an editor leave it."""
    place = finished / "runs" / "demo" / "train"
    (place / "manifest.json").write_bytes(manifest)
    monkeypatch.setattr(train_stage, "train", lambda _, folder: (folder / "checkpoint.pt").write_bytes(b"new") and {})
    assert main(["train", "--dry-run"]) == DONE
    said = capsys.readouterr().out
    assert "its manifest.json is missing or damaged" in said and ".kept/train/unknown.damaged" in said
    assert main(["train"]) == DONE
    said = capsys.readouterr().out
    for text in ("its manifest.json is missing or damaged", "not taken back", ".kept/train/unknown.damaged"):
        assert text in said, f"{text!r} is not in\n{said}"
    assert main(["runs"]) == DONE
    assert "kept: train, finished at an unknown time, damaged" in capsys.readouterr().out


def test_a_result_on_another_disk_is_kept_and_taken_back(finished: Path, capsys: Printed) -> None:
    """Moved there, with a link in its place; while that disk is not mounted, nothing is made again."""
    place, store = finished / "runs" / "demo" / "quantize", finished / "store"
    place.rename(store)
    place.symlink_to("../../store")
    change(finished, "quantize", method="percentile")
    assert main(["quantize"]) == DONE
    change(finished, "quantize", method="max")
    capsys.readouterr()
    assert main(["quantize"]) == DONE
    assert "quantize: taken back" in capsys.readouterr().out and place.resolve() == store
    store.rename(finished / "not mounted")
    for arguments in (["quantize"], ["quantize", "--dry-run"]):
        assert main(arguments) == WRONG_INPUT
        assert "a result lies in a place that is not there" in capsys.readouterr().err


def test_what_only_words_messages_stops_no_training(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    """Another user's folder in a shared run: a training of days ended with an error, again and again."""
    shutil.rmtree(finished / "runs/demo/.images")
    (finished / "runs/demo/.images").write_text("nothing can be written here")
    change(finished, "train", lr=0.002)
    monkeypatch.setattr(train_stage, "train", lambda _, folder: (folder / "checkpoint.pt").write_bytes(b"new") and {})
    assert main(["train"]) == DONE
    assert (finished / "runs/demo/train/checkpoint.pt").read_bytes() == b"new"
    (finished / "images/train/class_0/000.png").unlink()
    capsys.readouterr()
    assert main(["train", "--dry-run"]) == DONE
    assert "images: train has changed\n" in capsys.readouterr().out


def test_a_dry_run_says_that_an_interrupted_training_goes_on_beside_a_finished_one(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    def interrupted(_: object, folder: Path) -> dict[str, Any]:
        (folder / "last.pt").write_bytes(b"epoch 3")
        raise KeyboardInterrupt

    monkeypatch.setattr(train_stage, "train", interrupted)
    change(finished, "train", epochs=7)
    assert main(["train"]) == FAILED
    capsys.readouterr()
    assert main(["train", "--dry-run"]) == DONE
    said = capsys.readouterr().out
    assert "recipe: train.epochs 1 → 7" in said and "it was interrupted, and goes on from there" in said
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--dry-run"]) == DONE
    assert capsys.readouterr().out == "", "under torchrun it is said once"


# --- stopped between two moves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_full_disk_while_results_are_put_aside_loses_nothing(
    finished: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """At each rename of the first stages that change; the same command then goes on, and going back makes nothing again."""
    before = keys(finished)
    change(finished, "quantize", method="percentile")
    with monkeypatch.context() as patch:
        fail_at(patch, call)
        assert main(["build"]) == FAILED
    assert "the disk is full" in capsys.readouterr().err
    whole = [path.parent for path in (finished / "runs/demo").rglob("manifest.json")]
    assert set(before.values()) <= {artifact.key for folder in whole if (artifact := read_artifact(folder))}
    assert "train" not in ran(capsys, "build")
    change(finished, "quantize", method="max")
    assert ran(capsys, "build") == [] and keys(finished) == before


def fail_at(patch: pytest.MonkeyPatch, call: int) -> None:
    """The call-th rename of a result finds the disk full."""
    calls, rename = [0], os.rename

    def full(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        rename(source, target)

    patch.setattr(kept.os, "rename", full)


# --- our own version ------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Adds a comment to one of our source files, of a copy that is taken for the checkout."""
    source = code.ROOT
    for folder in OURS:
        shutil.copytree(source / folder, tmp_path / "ours" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path / "ours")

    def edit(place: str) -> None:
        with (tmp_path / "ours" / place).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        code._digest.cache_clear()

    yield edit
    code._digest.cache_clear()


def test_our_own_code_is_part_of_what_a_stage_is_made_from(
    finished: Path, capsys: Printed, edited: Callable[[str], None]
) -> None:
    edited("pipeline/report/page/templates/frame.html")
    assert ran(capsys) == ["report"]
    edited("pipeline/measure/benchmark_stage.py")
    assert ran(capsys) == ["benchmark", "report"]
    edited("pipeline/training/trainer.py")
    assert main(["train"]) == DONE
    said = capsys.readouterr().out
    assert (
        "train: unchanged" in said and "the code of t2t-edge for it has changed; it is not done again for that" in said
    )


def test_versions_are_noted_of_a_training_and_part_of_the_key_of_the_rest(
    finished: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((finished / "runs/demo/train/manifest.json").read_text())
    assert manifest["versions"]["torch"] and manifest["versions"]["timm"] and len(manifest["code"]) == 64
    monkeypatch.setattr(code, "_packages", lambda _: tuple((manifest["versions"] | {"torch": "99.0"}).items()))
    assert main(["run", "--dry-run"]) == DONE
    said = capsys.readouterr().out
    assert re.search(r"train: unchanged", said) and f"version: torch {manifest['versions']['torch']} → 99.0" in said
    assert main(["train"]) == DONE
    assert f"made with other versions: torch {manifest['versions']['torch']} → 99.0; it is" in capsys.readouterr().out
