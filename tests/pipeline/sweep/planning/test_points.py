"""Points: the grid and the list, their names, their recipes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from calib.errors import InputError
from pipeline.recipe import Recipe
from pipeline.sweep.planning.file import load_sweep
from pipeline.sweep.planning.points import Point, axes_of, make_points, with_values

ROOT = Path(__file__).parents[4]
DEMO = ROOT / "recipes" / "demo.yaml"


def points_of(folder: Path, values: dict[str, Any]) -> list[Point]:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "recipe": str(DEMO)} | values, sort_keys=False))
    return make_points(load_sweep(path), path)


def test_a_grid_has_every_combination_in_order(tmp_path: Path) -> None:
    axes = {"model.name": ["t2t_vit_mini", "resnet10t"], "model.image_size": [32, [48, 32]]}
    points = points_of(tmp_path, {"axes": axes})
    assert [point.name for point in points] == [
        "t2t_vit_mini-32", "t2t_vit_mini-48x32", "resnet10t-32", "resnet10t-48x32",
    ]  # fmt: skip
    assert [point.recipe.model.image_size for point in points] == [32, (48, 32), 32, (48, 32)]
    assert points[2].values == {"model.name": "resnet10t", "model.image_size": 32}
    assert all(isinstance(point.recipe, Recipe) and point.recipe.train.epochs == 4 for point in points)
    assert axes_of(points) == axes


def test_a_list_follows_the_grid_and_may_name_its_points(tmp_path: Path) -> None:
    listed = [{"name": "long", "train.epochs": 9}, {"quantize.method": "mse", "train.epochs": 5}]
    points = points_of(tmp_path, {"axes": {"train.epochs": [2, 3]}, "points": listed})
    assert [point.name for point in points] == ["2", "3", "long", "5-mse"]
    assert [point.recipe.train.epochs for point in points] == [2, 3, 9, 5]
    assert points[3].recipe.quantize.method == "mse"
    assert "name" not in points[2].values and axes_of(points)["quantize.method"] == ["mse"]


def test_what_all_points_have_is_set_and_no_axis(tmp_path: Path) -> None:
    points = points_of(tmp_path, {"set": {"train.epochs": 2}, "axes": {"quantize.method": ["max", "mse"]}})
    assert [point.recipe.train.epochs for point in points] == [2, 2]
    assert list(axes_of(points)) == ["quantize.method"]


def test_values_replace_a_key_and_leave_the_base(tmp_path: Path) -> None:
    base = {"model": {"name": "a", "image_size": 32}, "build": [1]}
    assert with_values(base, {"model.name": "b", "train.lr": 0.1, "build": [2, 3]}) == {
        "model": {"name": "b", "image_size": 32}, "train": {"lr": 0.1}, "build": [2, 3],
    }  # fmt: skip
    assert base == {"model": {"name": "a", "image_size": 32}, "build": [1]}


def test_long_and_nested_values_get_names_of_their_own(tmp_path: Path) -> None:
    include = [["^blocks[.]0[.].*attention.*long.*pattern"], ["^blocks[.]0[.].*attention.*long.*pattern.*2"]]
    first, second = points_of(tmp_path, {"axes": {"quantize.include": include}})
    assert first.name != second.name and first.name.startswith("blocks_._0_") and len(first.name) < 40


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axes": {"train.epochs": [2, -1]}}, "the point 1 has 1 wrong value.*train.epochs = -1"),
        ({"axes": {"quantize.method": ["max", "maxx"]}}, "the point maxx has 1 wrong value.*method = 'maxx'"),
        ({"axes": {"quantize.method": ["maxx", "msee"]}}, "2 of 2 points.*maxx.*msee"),
        ({"axes": {"quantize.methd": ["max", "mse"]}}, "quantize.methd: no such key"),
        ({"axes": {"train.epochs": [4, 4]}}, "two points.*have the same name"),
        ({"points": [{"name": "a"}, {"name": "b", "train.epochs": 4}]}, "are the same recipe.*a and b"),
        ({"points": [{"name": "../a"}]}, "a plain folder name"),
        ({"recipe": "nowhere.yaml", "axes": {"train.epochs": [1]}}, "no such recipe"),
    ],
)
def test_wrong_points_are_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        points_of(tmp_path, values)
