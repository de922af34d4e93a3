"""What a recipe's file may not hold, and how that is said."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from calib.errors import InputError
from pipeline.parts.model import ModelPart
from pipeline.recipe import Recipe, load_recipe

DEMO = (Path(__file__).parents[2] / "recipes" / "demo.yaml").read_text(encoding="utf-8")


def refused(folder: Path, *changes: tuple[str, str]) -> InputError:
    """The message about the demo's recipe with each (old, new) text replaced."""
    text = DEMO
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_recipe(folder / "recipe.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "got"),
    [
        ("  weight_decay: 0.05", "  weight_decay: 0.05\n  lr: 5", "train.lr in lines 10 and 12"),
        ("schema: 1", "schema: 1\nschema: 1\nschema: 1", "schema in lines 3, 4 and 5"),
        (
            "{backend: openvino, precisions",
            "{backend: openvino, backend: tensorrt, precisions",
            "build.1.backend in line 27",
        ),
        ("image_size: 32", "image_size: 32, args: {a: {b: 1, b: 1}}", "model.args.a.b in line 5"),
        ("schema: 1", "schema: 1\n? [a]\n: {x: 1, x: 2}", "x in line 5"),  # a key that is no text
    ],
)
def test_a_key_given_twice(tmp_path: Path, old: str, new: str, got: str) -> None:
    error = refused(tmp_path, (old, new))
    assert "more than once" in error.what and str(error.got).endswith(got), error


def test_every_key_given_twice_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, ("  epochs: 4", "  epochs: 4\n  epochs: 5"), ("schema: 1", "schema: 1\nschema: 1"))
    assert error.got == "train.epochs in lines 9 and 10; schema in lines 3 and 4"


def test_merged_keys_are_no_key_given_twice(tmp_path: Path) -> None:
    """`<<` takes keys over, and what stands beside it counts; an alias is one mapping, however often it is used."""
    text = DEMO.replace("train:\n", "qat: &often {epochs: 7, lr: 3.0, seed: 5}\ntrain:\n  <<: *often\n")
    text += "sensitivity: &few {images: 9}\nvisualize:\n  <<: [*few, {blocks: 5, images: 3}]\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.seed) == (4, 1e-3, 5)
    assert (recipe.qat.epochs, recipe.visualize.images, recipe.visualize.blocks) == (7, 9, 5)


def test_an_empty_file_and_one_that_contains_itself(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="is not a mapping"):
        load_recipe(path)
    path.write_text("&all\nschema: 1\nbuild: [*all]\n")
    with pytest.raises(InputError, match="wrong value"):
        load_recipe(path)


NUMBERS = [
    (name, key)
    for name, part in Recipe.model_fields.items() if name not in ("schema_", "data", "model", "build")
    for key, value in dict(part.get_default()).items() if isinstance(value, float)
]  # fmt: skip


def test_there_are_numbers_in_these_parts() -> None:
    assert {part for part, _ in NUMBERS} == {"preprocess", "train", "quantize", "search", "qat", "benchmark", "gate"}


@pytest.mark.parametrize(("part", "key"), NUMBERS, ids=".".join)
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_no_number_is_infinite(tmp_path: Path, part: str, key: str, value: str) -> None:
    values = yaml.safe_load(DEMO)
    values[part] = values.get(part, {}) | {key: float(value.replace(".", ""))}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=rf"{part}\.{key} = -?(inf|nan): .*finite number"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("old", "new", "got", "allowed"),
    [
        ("lr: 1.0e-3", "lr: .inf", "train.lr = inf: Input should be a finite number", "a number above 0"),
        ("mean: [0.286,", "mean: [.nan,", "preprocess.mean.0 = nan: Input should be a finite number", "a number"),
        ("std: [0.353,", "std: [0,", "preprocess.std.0 = 0: Input should be greater than 0", "a number above 0"),
        (
            "image_size: 32",
            "image_size: 100000",
            "model.image_size = 100000: Input should be less than or equal to 4096",
            "a whole number from 1 to 4096",
        ),
        (
            "  epochs: 4",
            "  epoch: 4",
            "train.epoch: no such key; did you mean epochs?",
            "epochs, batch_size, global_batch, ",
        ),
        ("  epochs: 4", "  Epochs: 4", "train.Epochs: no such key; did you mean epochs?", "epochs, "),
        ("schema: 1", "schema: 1\nlr: 1", "lr: no such key; did you mean train.lr or qat.lr?", "schema, data, model, "),
        ("  epochs: 4", "  image_size: 4", "train.image_size: no such key; did you mean model.image_size?", "epochs, "),
        (
            "evaluate: {batch_size",
            "evaluate: {batch_sizes",
            "evaluate.batch_sizes: no such key; did you mean batch_size?",
            "batch_size",
        ),
        ("  epochs: 4", "  zzz: 4", "train.zzz: no such key", "epochs, "),
        (
            "method: max",
            "method: entropi",
            "quantize.method = 'entropi': none of its values; did you mean entropy?",
            "max, entropy, percentile, mse, smoothquant",
        ),
        ("method: max", "method: zzz", "quantize.method = 'zzz': none of its values", "max, entropy, "),
        ("method: max", "weight_bits: 6", "quantize.weight_bits = 6: none of its values", "4, 8"),
        (
            "{backend: openvino,",
            "{backend: OpenVINO,",
            "build.1.backend = 'OpenVINO': none of its values; did you mean openvino?",
            "onnxruntime, openvino, executorch, inductor, pytorch, tensorrt, tensorrt_rtx",
        ),
        (
            "schema: 1",
            "schema: 1\nvisualize: {precision: int-8}",
            "visualize.precision = 'int-8': none of its values; did you mean int8?",
            "fp32, fp16, int8, ",
        ),
        ("schema: 1", "schema: 1\nexport: {opset: 23}", "export.opset = 23: ", "a whole number from 17 to 22"),
        ("schema: 1", "schema: 1\nexport: {simplify: maybe}", "export.simplify = 'maybe': ", "true or false"),
        (
            "schema: 1",
            "schema: 1\ncalibrate: {seed: -1}",
            "calibrate.seed = -1: ",
            f"a whole number from 0 to {2**63 - 1}",
        ),
        ("schema: 1", "schema: 1\nsearch: {budget_ms: 0}", "search.budget_ms = 0: ", "a number above 0 or null"),
        ("crop_pct: 1.0", "crop_pct: 2", "preprocess.crop_pct = 2: ", "a number above 0 and at most 1"),
        (
            "evaluate: {batch_size: 200}",
            "evaluate: 5",
            "evaluate = 5: not keys and values",
            "keys and values, of batch_size",
        ),
        (", root: data/fashion-mnist", "", "data.root: missing", "a path"),
        ("targets: [sm86,", "targets: [86,", "build.2.targets.0 = 86: ", r"text that matches ^sm\d{2,3}$"),
        ("std: [0.353, 0.353, 0.353]", "std: []", "preprocess.std = []: ", "a number above 0 or a list of 1, each"),
        (
            "batch_sizes: [1, 8]",
            "batch_sizes: 8",
            "benchmark.batch_sizes = 8: ",
            "a list, each a whole number of at least 1",
        ),
        ("root: data/fashion-mnist", "root: [1]", "data.root = [1]: ", "a path"),
        ("name: fashion-mnist", "name: ''", "data.name = '': ", "text that is not empty"),
    ],
)
def test_one_wrong_value(tmp_path: Path, old: str, new: str, got: str, allowed: str) -> None:
    error = refused(tmp_path, (old, new))
    assert error.what.endswith("has 1 wrong value(s)")
    assert str(error.got).startswith(got) and str(error.allowed).startswith(allowed), error


def test_what_does_not_fit_together_explains_itself(tmp_path: Path) -> None:
    error = refused(tmp_path, ("precisions: [fp32, fp16, int8, int8-fp16], method", "precisions: [fp32], method"))
    assert "build asks for ['fp16', 'int8', 'int8-fp16']" in str(error.got) and error.allowed is None
    error = refused(tmp_path, ("method: max", "include: ['(']"))
    assert str(error.got).startswith("quantize.include.0 = '(': not a regular expression") and error.allowed is None


def test_ten_wrong_values_are_a_line_each(tmp_path: Path) -> None:
    wrong = "  epoch: 4\n  zz: 1\n  max_skipped: 0\n  compile: maybe\n  keep_last: 0\n  seed: -1\n  random_crop_padding: 2\n"
    error = refused(tmp_path, ("  epochs: 4\n", wrong), ("schema: 1", "schema: 2"), ("max}", "maxx, weight_bits: 1}"))
    got, allowed = str(error.got).splitlines()[1:], str(error.allowed).splitlines()[1:]
    assert error.what.endswith("has 10 wrong value(s)") and len(got) == 10
    assert "    train.epoch: no such key; did you mean epochs?" in got and "    train.zz: no such key" in got
    assert "    schema: 1" in allowed and "    quantize.weight_bits: 4, 8" in allowed and len(allowed) == 9
    assert len([line for line in allowed if line.startswith("    keys of train: epochs, ")]) == 1, "once for both keys"
    assert max(map(len, got)) < 120


def test_a_message_stays_short(tmp_path: Path) -> None:
    keys = "".join(f"key_{index}: 1\n" for index in range(40))
    got = str(refused(tmp_path, ("schema: 1", f"schema: 1\n{keys}")).got).splitlines()
    assert len(got) == 14 and got[-1] == "    and 28 more"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ([64, 32, 3], "a list of two: height and width"),
        ([64, 0], "Input should be greater than 0"),
        ([64, 5000], "Input should be less than or equal to 4096"),
        ("large", "a whole number, or a list of two"),
        ([64.5, 32], "a whole number, or a list of two"),
    ],
)
def test_wrong_image_sizes(size: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelPart.model_validate({"name": "resnet50", "image_size": size})


def test_image_sizes_are_written_as_they_are_read() -> None:
    """A square is one number, however it was given, so that trainings of before there were others keep their keys."""
    parts = [ModelPart.model_validate({"name": "resnet50", "image_size": size}) for size in (32, [32, 32], [64, 32])]
    assert [part.model_dump(mode="json")["image_size"] for part in parts] == [32, 32, [64, 32]]
    assert [part.image_shape for part in parts] == [(3, 32, 32), (3, 32, 32), (3, 64, 32)]
    assert {"in_chans", "onnx", "output"}.isdisjoint(parts[0].model_dump(mode="json"))


def of_model(model: dict[str, object], **parts: object) -> Recipe:
    return Recipe.model_validate({
        "schema": 1, "data": {"name": "x", "root": "y"}, "model": model,
        "build": [{"backend": "openvino", "precisions": ["fp32"]}], **parts,
    })  # fmt: skip


def test_graphs_are_made_for_the_engines_alone_where_nothing_is_said() -> None:
    model: dict[str, object] = {"name": "resnet50", "image_size": 32}
    cpu = [{"backend": "openvino", "precisions": ["fp32", "int8"]}, {"backend": "onnxruntime", "precisions": ["int8"]}]
    gpu = [{"backend": "tensorrt", "precisions": ["int8-fp16", "fp16"]}]
    assert of_model(model, build=cpu).quantize.precisions == ("fp32", "int8")
    assert of_model(model, build=cpu + gpu).quantize.precisions == ("fp32", "int8", "int8-fp16", "fp16")
    shown = of_model(model, visualize={"precision": "int8"})
    assert shown.quantize.precisions == ("fp32", "int8") and shown.visualized_precision() == "int8"
    said = of_model(model, build=cpu, quantize={"precisions": ["fp32", "int8", "int8-fp16"], "method": "mse"})
    assert said.quantize.precisions == ("fp32", "int8", "int8-fp16")


def test_grey_networks_have_one_mean() -> None:
    model: dict[str, object] = {"name": "resnet50", "image_size": 32, "in_chans": 1}
    plain = of_model(model)
    assert (plain.preprocess_spec().mean, plain.preprocess_spec().colour) == ((0.459,), "grey")
    assert Recipe.model_validate(plain.model_dump(mode="json", by_alias=True)) == plain
    assert of_model(model, preprocess={"mean": 0.3, "std": [0.2]}).preprocess_spec().mean == (0.3,)
    with pytest.raises(ValidationError, match=r"preprocess\.mean has 3 value"):
        of_model(model, preprocess={"mean": [0.1, 0.2, 0.3]})
    with pytest.raises(ValidationError, match=r"preprocess\.std has 1 value"):
        of_model({"name": "resnet50", "image_size": 32}, preprocess={"std": 0.3})


def test_a_network_in_an_onnx_file_is_not_trained() -> None:
    model: dict[str, object] = {"onnx": "net.onnx", "image_size": 32}
    assert of_model(model).train.epochs == 0 and of_model(model).model.label == "net.onnx"
    with pytest.raises(ValidationError, match=r"train\.epochs is 3, and the network of model\.onnx is finished"):
        of_model(model, train={"epochs": 3})
    with pytest.raises(ValidationError, match="asks for int8-qat, which trains"):
        of_model(model, quantize={"precisions": ["fp32", "int8", "int8-qat"]})
