"""Every recipe file is one the program takes; the paper's are what the paper and its authors' commands say."""

from pathlib import Path

import pytest
import timm
import torch
import yaml

import models  # noqa: F401  (registers the models)
from calib.errors import InputError
from models.t2t_vit import VARIANTS
from pipeline.recipe import Recipe, load_recipe
from pipeline.sweep.planning.file import load_sweep
from pipeline.sweep.planning.points import make_points
from pipeline.training.distributed import World
from pipeline.training.trainer import accumulation, fit_batch

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "recipes" / "sweep.yaml"
RECIPES = sorted(set((ROOT / "recipes").glob("*.yaml")) - {SWEEP})
IMAGENET = [path for path in RECIPES if load_recipe(path).data.name == "imagenet"]
EXPECTED = {  # learning rate, weight decay
    **dict.fromkeys(("t2t_vit_7", "t2t_vit_10", "t2t_vit_12"), (1e-3, 0.03)),
    **dict.fromkeys(("t2t_vit_19", "t2t_vit_24", "t2t_vit_t_19", "t2t_vit_t_24"), (5e-4, 0.065)),
    **dict.fromkeys(("t2t_vit_14", "t2t_vit_t_14", "t2t_vit_14_wide", "t2t_vit_dense"), (5e-4, 0.05)),
    **dict.fromkeys(("t2t_vit_14_se", "t2t_vit_14_resnext", "t2t_vit_16_ghost"), (5e-4, 0.05)),
}  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_is_valid_and_names_a_network(path: Path) -> None:
    recipe = load_recipe(path)
    if recipe.model.name is None:
        return  # another package's factory
    options = {} if recipe.model.name.startswith("resnet") else {"img_size": recipe.model.image_size}
    if recipe.train.drop_path > 0:
        options["drop_path_rate"] = recipe.train.drop_path
    with torch.device("meta"):
        model = timm.create_model(recipe.model.name, **options, **recipe.model.args)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e5


def test_the_sweep_is_valid_and_is_no_recipe() -> None:
    points = make_points(load_sweep(SWEEP), SWEEP)
    assert len(points) == 24 and all(point.recipe.train.epochs == 1 for point in points)
    with pytest.raises(InputError, match=r"this is a sweep, not a recipe"):
        load_recipe(SWEEP)
    with pytest.raises(InputError, match=r"this is a recipe, not a sweep"):
        load_sweep(RECIPES[0])


def test_every_variant_of_the_paper_has_a_recipe() -> None:
    named = {load_recipe(path).model.name for path in IMAGENET}
    assert named == {name for name in VARIANTS if not name.endswith("_mini")} == set(EXPECTED)


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_the_recipe_is_the_papers(path: Path) -> None:
    recipe = load_recipe(path)
    train = recipe.train
    assert (train.lr, train.weight_decay) == EXPECTED[str(recipe.model.name)]
    assert (train.epochs, train.warmup_epochs, train.cooldown_epochs) == (310, 10, 10)
    assert train.optimizer == "adamw" and train.min_lr == 1e-5 and train.ema_decay == 0.99996 and train.drop_path == 0.1
    assert (train.label_smoothing, train.mixup, train.cutmix, train.random_erasing) == (0.1, 0.8, 1.0, 0.25)
    assert train.auto_augment == "rand-m9-mstd0.5-inc1" and train.random_resize_scale == (0.08, 1.0)
    assert recipe.model.image_size == (384 if path.stem.endswith("_384") else 224)
    for processes in (1, 2, 4, 8, 16, 32):  # 32: the four boxes of docs/training.md
        world = World(0, processes, torch.device("cpu"))
        fitting = fit_batch(train, world)
        assert accumulation(fitting, world) * processes * fitting.batch_size == 512
        assert fitting.batch_size == min(train.batch_size, 512 // processes), "no smaller than it must be"
    world = World(0, 24, torch.device("cpu"))  # three boxes
    with pytest.raises(InputError, match=r"(?s)does not divide.*24 process.*a multiple of \d+, or of 24"):
        accumulation(fit_batch(train, world), world)


def test_bare_off_is_what_yaml_makes_of_it() -> None:
    values = load_recipe(ROOT / "recipes" / "demo.yaml").model_dump(mode="json", by_alias=True)
    values["train"]["amp"] = False
    assert Recipe.model_validate(values).train.amp == "off"


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("train", "clip_grad", -1, r"train\.clip_grad = -1: .*greater than 0"),  # it would climb the loss
        ("train", "clip_grad", 0, r"train\.clip_grad = 0: .*greater than 0"),
        ("qat", "clip_grad", -1, r"qat\.clip_grad = -1: .*greater than 0"),
        *(
            (part, "seed", seed, rf"{part}\.seed = {seed}: ")
            for part in ("train", "calibrate", "search", "qat")
            for seed in (-1, 2**63)
        ),
        ("data", "name", "", r"data\.name = '': .*at least 1 character"),
    ],
)
def test_values_that_would_fail_later(tmp_path: Path, part: str, key: str, value: object, message: str) -> None:
    values = load_recipe(ROOT / "recipes" / "demo.yaml").model_dump(mode="json", by_alias=True)
    values[part][key] = value
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("build", "name"),
    [
        ([{"backend": "openvino", "precisions": ["fp32", "fp32"]}], "openvino-fp32"),
        ([{"backend": "openvino", "precisions": ["fp32"]}] * 2, "openvino-fp32"),
        ([{"backend": "tensorrt_rtx", "precisions": ["fp16"], "targets": ["sm86", "sm86"]}], "tensorrt_rtx-fp16-sm86"),
        (
            [{"backend": "tensorrt", "precisions": ["fp16"], "batch_sizes": [1, size, size]} for size in (1, 8)],
            "tensorrt-fp16",
        ),
    ],
)
def test_two_engines_of_one_name_are_refused(build: list[dict[str, object]], name: str) -> None:
    """Before anything is trained: they would be one folder."""
    values = load_recipe(ROOT / "recipes" / "demo.yaml").model_dump(mode="json", by_alias=True) | {"build": build}
    with pytest.raises(ValueError, match=f"build makes {name} more than once"):
        Recipe.model_validate(values)
    once = values | {"build": [build[0] | {"precisions": ["fp16"], "targets": build[0].get("targets", [])[:1]}]}
    assert Recipe.model_validate(once)


@pytest.mark.parametrize("precision", ["fp16", "int8-fp16", "bf16", "int8-bf16", "fp8"])
def test_phones_have_fp32_and_int8_alone(precision: str) -> None:
    values = load_recipe(ROOT / "recipes" / "phones.yaml").model_dump(mode="json", by_alias=True)
    values["quantize"]["precisions"] = ["fp32", "int8", "int8-sparse", "int8-qat", "auto", precision]
    build = [{"backend": "executorch", "precisions": ["fp32", "int8", "int8-sparse", "int8-qat", "auto"]}]
    assert Recipe.model_validate(values | {"build": build})
    with pytest.raises(ValueError, match=f"{precision} (does not go with executorch|goes with tensorrt)"):
        Recipe.model_validate(values | {"build": [build[0] | {"precisions": [precision]}]})


def test_feature_maps_and_searches_are_not_asked_of_phones() -> None:
    """Its programs give out nothing but logits, and take a minute to make."""
    values = load_recipe(ROOT / "recipes" / "phones.yaml").model_dump(mode="json", by_alias=True)
    for part in ("visualize", "search"):
        with pytest.raises(ValueError, match=f"{part}.backend"):
            Recipe.model_validate(values | {part: {"backend": "executorch"}})


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("precision", ["bf16", "int8-bf16"])
def test_bf16_is_openvino_s(tmp_path: Path, backend: str, precision: str) -> None:
    values = load_recipe(ROOT / "recipes" / "demo.yaml").model_dump(mode="json", by_alias=True)
    values["quantize"]["precisions"] = ["fp32", precision]
    values["build"] = [{"backend": backend, "precisions": ["fp32", precision]}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    message = f"build.0: {precision} goes with openvino and inductor: {backend} has no engines that compute in it"
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "recipe.yaml")
    recipe = Recipe.model_validate(values | {"build": [{"backend": "openvino", "precisions": ["fp32", precision]}]})
    assert recipe.visualized_precision() == "fp32", "what visualize.backend computes"
    values["visualize"] |= {"backend": backend, "precision": precision}
    values["build"] = [{"backend": "openvino", "precisions": ["fp32", precision]}]
    with pytest.raises(ValueError, match=f"visualize.backend and visualize.precision: {precision} goes with openvino"):
        Recipe.model_validate(values)
