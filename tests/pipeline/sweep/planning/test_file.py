"""The sweep's file: what is wrong in it is said at once."""

from pathlib import Path

import pytest
import yaml

from calib.errors import InputError
from pipeline.sweep.planning.file import load_sweep

GOOD = {"schema": 1, "recipe": "recipes/demo.yaml", "axes": {"model.image_size": [32, 48]}}


def test_a_sweep_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"needs": {"train": {"cpus": 4, "gpus": 0.5, "memory_gb": 3}}}))
    sweep = load_sweep(path)
    assert sweep.recipe == Path("recipes/demo.yaml") and sweep.axes == {"model.image_size": [32, 48]}
    assert (sweep.needs["train"].cpus, sweep.needs["train"].gpus, sweep.needs["train"].memory_gb) == (4, 0.5, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {}}, "a sweep has axes (a grid) or points (a list), or both"),
        ({"axes": {"model.image_size": []}}, "axes.model.image_size = []: List should have at least 1 item"),
        ({"axes": {"Model Name": ["a"]}}, "not a key of a recipe, such as train.epochs"),
        ({"grid": {}}, "grid: no such key"),
        ({"recipe": None}, "recipe = None: Input is not a valid path"),
        ({"needs": {"training": {}}}, "training: no such stage; there are train, export"),
        ({"needs": {"train": {"cpus": 0}}}, "needs.train.cpus = 0: Input should be greater than 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(InputError) as found:
        load_sweep(path)
    assert message in str(found.value) and f"edit {path}; docs/sweep.md" in str(found.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read as YAML"),
        ("- a\n", "is not a mapping"),
        ("schema: 1\nschema: 1\n", "gives a key more than once"),
        ("\xff", "cannot be read as YAML"),
    ],
)
def test_what_is_no_sweep_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "no.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        load_sweep(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no such sweep file"):
        load_sweep(Path("nowhere.yaml"))
