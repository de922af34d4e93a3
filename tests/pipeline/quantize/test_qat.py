"""Quantization-aware training: where fake quantizers go, what they compute, what is trained, and what is handed on."""

import copy
import csv
import io
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from chain_run import recipe_values
from onnx import numpy_helper
from processes import Forked
from trainings import launch, train_quantized

from calib.calibration import CalibrationSet, load_calibration_set
from calib.errors import InputError
from calib.precision.policy import decide
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.graph.calls import Follower, Recorder
from export.graph.layers import read_layers
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.fake_quantize import FakeQuantized, _quantizer, look, weight_ranges
from export.quantize.int8 import QuantizeOptions, find_ranges, write_quantized
from export.quantize.qdq import fp16_scale, insert_qdq
from export.simplify import simplify_onnx
from pipeline.artifact import Artifact
from pipeline.quantize import qat_stage
from pipeline.quantize.qat_ranges import read_ranges
from pipeline.quantize.qat_stage import make_student, normalised
from pipeline.quantize.qat_training import DistillingTrainer, Trained, distillation_loss, train_student
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.distributed import World
from pipeline.training.weights import build_model

pytestmark = pytest.mark.slow

ALONE = World(0, 1, torch.device("cpu"))


def recipe(root: Path, **parts: dict[str, Any]) -> Recipe:
    """As the chain's, but for QAT."""
    values = {
        key: value for key, value in recipe_values(root).items() if key not in ("evaluate", "visualize", "benchmark")
    }
    values |= {"quantize": {}, "build": [], "qat": {"epochs": 4, "batch_size": 10, "lr": 1e-4, "workers": 0}}
    return Recipe.model_validate({key: value | parts.get(key, {}) if isinstance(value, dict) else value
                                  for key, value in values.items()})  # fmt: skip


@dataclass(frozen=True)
class Ready:
    """What the stages before have made, in one folder."""

    folder: Path
    root: Path

    def inputs(self) -> dict[str, Artifact]:
        names = {"train": "checkpoint.pt", "export": "fp32.onnx", "calibrate": "calibration.npz"}
        return {stage: Artifact(self.folder, "", {name: ""}, {}, {}, 0.0) for stage, name in names.items()}

    def student(self, chosen: Recipe) -> FakeQuantized:
        return make_student(chosen, self.checkpoint, onnx.load(self.folder / "fp32.onnx"), self.calibration)[0]

    @property
    def checkpoint(self) -> Any:
        return read_checkpoint(self.folder / "checkpoint.pt")

    @property
    def calibration(self) -> CalibrationSet:
        return load_calibration_set(self.folder / "calibration.npz", recipe(self.root).preprocess_spec())

    def train(self, chosen: Recipe, student: FakeQuantized, folder: Path) -> Trained:
        folder.mkdir(exist_ok=True)
        return train_student(chosen, student, build_model(self.checkpoint, chosen.model), folder, ALONE)


@pytest.fixture(scope="module")
def ready(chain: Path, image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """A small network trained on photographs, its graph and its calibration set."""
    folder = tmp_path_factory.mktemp("ready")
    for name in ("train/checkpoint.pt", "export/fp32.onnx", "calibrate/calibration.npz"):
        shutil.copy(chain / "runs" / "small" / name, folder)
    return Ready(folder, image_root)


@pytest.mark.parametrize("policy", ["weights", "+attention", "+residual", "full"])
def test_placement_is_the_policys(ready: Ready, policy: str) -> None:
    """Every node that the policy quantizes, and no other, with as many quantizers as it has Q/DQ."""
    chosen, proto = recipe(ready.root, quantize={"policy": policy}), onnx.load(ready.folder / "fp32.onnx")
    student, found = make_student(chosen, ready.checkpoint, proto, ready.calibration)
    decisions = [decision for decision in found.decisions if decision.int8]
    nodes = {node.name: node for node in proto.graph.node}
    assert not student.placement.missed
    assert [site.layer for site in student.placement.sites] == [decision.layer for decision in decisions]
    outputs = [d for d in decisions if d.output and nodes[d.layer.name].output[0] != OUTPUT]
    wanted = sum(len(decision.inputs) for decision in decisions) + len(outputs)
    assert len(student.quantizers) == wanted > 40
    modules = {decision.layer.module for decision in decisions}
    assert "blocks.0.mlp.fc1" in modules and ("head" in modules) == (policy == "full"), "one row per image"


def test_excluded_layers_stay_float(ready: Ready) -> None:
    student = ready.student(recipe(ready.root, quantize={"exclude": [r"blocks\.0\..*"]}))
    modules = [site.layer.module for site in student.placement.sites]
    assert any(name.startswith("blocks.1.") for name in modules)
    assert not any(name.startswith("blocks.0.") for name in modules)


@pytest.mark.parametrize("bits", [4, 8])
def test_training_begins_with_the_weight_ranges_of_quantization_after_it(ready: Ready, bits: int) -> None:
    """Otherwise a comparison of the two would be one of ranges as well."""
    chosen, proto = (
        recipe(ready.root, quantize={"policy": "full", "weight_bits": bits}),
        onnx.load(ready.folder / "fp32.onnx"),
    )
    student, found = make_student(chosen, ready.checkpoint, proto, ready.calibration)
    inputs = normalised(ready.calibration.first(4), chosen.preprocess_spec())
    written = write_quantized(proto, found, weight_bits=bits)
    stored = {value.name: numpy_helper.to_array(value) for value in written.graph.initializer}
    ranges = weight_ranges(student, proto, inputs)
    assert len(ranges) > 20
    for name, amax in ranges.items():
        before = fp16_scale(amax, 2 ** (bits - 1) - 1)
        np.testing.assert_allclose(before, stored[f"{name}_weight_scale"], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantizers_round_as_the_grid_does(bits: int) -> None:
    """Modelopt against numpy's round(x / scale) · scale: the same integers but at ties, values within two roundings."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(16, 4000)).astype(np.float32)
    amax = np.abs(values).max(1, keepdims=True) * np.float32(0.7)  # some values lie beyond
    bound = np.float32(2 ** (bits - 1) - 1)
    scale = amax / bound
    for narrow, low in ((True, -bound), (False, -bound - 1)):
        quantizer = _quantizer(torch.from_numpy(amax), bits, narrow_range=narrow)
        got = quantizer(torch.from_numpy(values)).numpy()
        steps = np.clip(np.rint(values / scale), low, bound)
        wrong = np.rint(got / scale) != steps
        tie = np.abs(np.abs(values / scale) % 1 - 0.5) < 1e-4
        assert not (wrong & ~tie).any() and (steps == low).any() and (steps == bound).any()
        difference = np.abs(got - steps * scale)[~wrong]
        assert difference.max() <= 2.5e-7 * np.abs(got).max(), (
            f"max {difference.max():.1e} mean {difference.mean():.1e}"
        )


def test_the_mode_counts_what_the_graph_has() -> None:
    """Product, attention in two, sum; a call that no image takes part in counts but is not kept."""
    recorder = Recorder()
    x = torch.rand(2, 4, 8, requires_grad=True)
    linear = torch.nn.Linear(8, 8).requires_grad_(False)
    with Follower(recorder) as follower:
        _ = linear.weight @ linear.bias
        y = linear(x)
        z = x + torch.nn.functional.scaled_dot_product_attention(y, y, y)
    assert follower.count == 5
    assert [call.kind for call in recorder.calls.values()] == ["matmul", "linear", "matmul", "matmul", "sum"]
    assert recorder.calls[2].scale == pytest.approx(8**-0.5) and set(recorder.calls[1].constants) == {1}
    expected = x + torch.softmax(y @ y.transpose(1, 2) * 8**-0.5, -1) @ y
    assert torch.allclose(z, expected, atol=1e-6), f"max {(z - expected).abs().max():.1e}"


def test_batch_norms_and_colours_folded_into_weights(tmp_path: Path) -> None:
    """A ResNet: the graph's weights are not the network's, nor is its input; still both compute the same."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 0.5, 1)  # some are negative
            torch.nn.init.normal_(module.bias, 0, 0.1)
    spec = Preprocess(32, 32, 1.0, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.125))
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    export_onnx(model, spec, list("abcde"), tmp_path / "raw.onnx")
    assert simplify_onnx(tmp_path / "raw.onnx", tmp_path / "fp32.onnx", images[:2]).accepted
    proto = onnx.load(tmp_path / "fp32.onnx")
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node), "this test shows nothing"
    decisions = decide(read_layers(proto), include=["conv1.0"])
    calibration = CalibrationSet(images, np.zeros(16, np.int64))
    found = find_ranges(proto, decisions, calibration, QuantizeOptions())
    inputs = normalised(images, spec)
    placement, calls = look(model, proto, found.decisions, images[:4], inputs[:4], spec)
    assert not placement.missed and sum(site.spread is not None for site in placement.sites) == 1
    amax = {name: found_range.amax for name, found_range in found.ranges.items()}
    student = FakeQuantized(copy.deepcopy(model), placement, calls, amax, 4)
    ranges = weight_ranges(student, proto, inputs[:4])
    onnx.save(write_quantized(proto, found, weight_bits=4, weight_amax=ranges), tmp_path / "int8.onnx")
    with torch.no_grad():
        logits, plain = student(inputs).numpy(), model(inputs).numpy()
    with onnxruntime_backend.load(tmp_path / "int8.onnx", 1, literal=True) as runner:
        graph = runner.infer({INPUT: images})[OUTPUT]
    difference, effect = np.abs(graph - logits).mean(), np.abs(graph - plain).mean()
    assert difference < 0.3 * effect, f"mean difference {difference:.2e}, quantization's effect {effect:.2e}"


def test_distillation_loss() -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 6, 5))
    labels = np.array([0, 1, 2, 3, 4, 0])

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    p, q = softmax(teacher / 3), softmax(student / 3)
    divergence = (p * np.log(p / q)).sum(1).mean()
    entropy = -np.log(softmax(student)[np.arange(6), labels]).mean()
    got = distillation_loss(*map(torch.from_numpy, (student, teacher, labels)), 0.7, 3.0)
    assert float(got) == pytest.approx(0.7 * 9 * divergence + 0.3 * entropy)


@pytest.fixture(scope="module")
def finished(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The stage with 4-bit weights, whole."""
    folder = tmp_path_factory.mktemp("qat")

    def compare(student: Any, graph: Path, images: np.ndarray, *more: Any) -> dict[str, Any]:
        np.save(folder / "compared.npy", images)
        return real(student, graph, images, *more)

    real = qat_stage.compare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat_stage, "COMPARED_IMAGES", 15)
        patch.setattr(qat_stage, "compare", compare)
        with redirect_stdout(io.StringIO()) as printed:
            notes = qat_stage.run(recipe(ready.root, quantize={"weight_bits": 4}), ready.inputs(), folder)
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder, notes


def test_what_it_reached_is_said(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, notes = finished
    before, teacher = f"{notes['before_top1']:.2f} %", f"{notes['teacher_top1']:.2f} %"
    said = f"top-1: FP32 {teacher}, quantized {before}, trained quantized {notes['top1']:.2f} % on 30 images\n"
    assert f"           {said}" in (folder / "printed.txt").read_text()


def test_training_comes_nearer_to_the_teacher(ready: Ready, finished: tuple[Path, dict[str, Any]]) -> None:
    folder, notes = finished
    assert notes["losses"][-1] < 0.7 * notes["losses"][0], notes["losses"]
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 and float(table[-1]["val_top1"]) == notes["top1"]
    assert notes["trained_layers"] == notes["policy_layers"] and not notes["quantized_after_training_only"]
    teacher, chosen = build_model(ready.checkpoint, recipe(ready.root).model), recipe(ready.root)
    inputs = normalised(ready.calibration.images, chosen.preprocess_spec())
    distance = []
    for weights in (ready.folder, folder):
        session = logits_of(weights, folder, ready, chosen)
        with torch.no_grad():
            distance.append(float(distillation_loss(torch.from_numpy(session), teacher(inputs), torch.zeros(30), 1, 2)))
    assert distance[1] < 0.7 * distance[0], f"quantized after training {distance[0]:.4f}, trained {distance[1]:.4f}"


def logits_of(weights: Path, scratch: Path, ready: Ready, chosen: Recipe) -> np.ndarray:
    """The calibration images through the 4-bit graph of the network in `weights`, quantized after training or trained."""
    path = weights / "int8.onnx"
    if not path.is_file():
        proto = onnx.load(weights / "fp32.onnx")
        found = find_ranges(proto, decide(read_layers(proto)), ready.calibration, QuantizeOptions(weight_bits=4))
        path = scratch / "ptq.onnx"
        onnx.save(write_quantized(proto, found, weight_bits=4), path)
    with onnxruntime_backend.load(path, 1, literal=True) as runner:
        return runner.infer({INPUT: ready.calibration.images})[OUTPUT]


def test_the_graph_computes_what_was_trained(ready: Ready, finished: tuple[Path, dict[str, Any]]) -> None:
    """On images of all three classes: the set is sorted by class, so its first 15 are of two."""
    folder, notes = finished
    assert notes["graph_compared_images"] == 15 and notes["graph_agreement"] == 100
    assert (np.load(folder / "compared.npy") == ready.calibration.images[::2]).all()
    assert notes["graph_difference_mean"] < 0.02, notes


def test_weights_are_on_the_grid_and_load_strictly(ready: Ready, finished: tuple[Path, dict[str, Any]]) -> None:
    """A plain checkpoint; numpy's quantization of its weights with the ranges of ranges.json changes none of them."""
    folder, notes = finished
    checkpoint = read_checkpoint(folder / "checkpoint.pt")
    model = build_model(checkpoint, recipe(ready.root).model)  # strict
    assert checkpoint.state_dict.keys() == ready.checkpoint.state_dict.keys()
    proto = onnx.load(folder / "fp32.onnx")
    activations, weights = read_ranges(folder / "ranges.json")
    again = insert_qdq(proto, decide(read_layers(proto)), activations, weight_bits=4, weight_amax=weights)
    assert again == onnx.load(folder / "int8.onnx"), "the files are enough to write the graph again"
    linears = [
        (layer, module) for layer in read_layers(proto)
        if layer.name in weights and isinstance(module := model.get_submodule(layer.module), torch.nn.Linear)
    ]  # fmt: skip
    assert notes["snapped_weights"] == len(weights) >= len(linears) > 15
    stored = {value.name: value for value in onnx.load(folder / "int8.onnx").graph.initializer}
    for layer, module in linears:
        weight, scale = module.weight.detach().numpy(), weights[layer.name][:, None] / np.float32(7)
        steps = np.rint(weight / scale)
        assert np.abs(steps).max() <= 7 and np.abs(weight - steps * scale).max() < 1e-6
        quantized = numpy_helper.to_array(stored[f"{layer.name}_weight_quantized"])
        assert (quantized == steps.T).all(), "the graph has these integers"


def test_teacher_and_inputs_are_untouched(ready: Ready, tmp_path: Path) -> None:
    chosen = recipe(ready.root, qat={"epochs": 1})
    teacher, student = build_model(ready.checkpoint, chosen.model), ready.student(chosen)
    train_student(chosen, student, teacher, tmp_path, ALONE)
    before = ready.checkpoint.state_dict
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    moved = [name for name, value in student.model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) > 50


def test_batch_norm_and_dropout_stay_as_they_are_exported(ready: Ready) -> None:
    student = ready.student(recipe(ready.root)).train()
    assert not any(module.training for module in student.modules())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(student(x), student(x))


def test_interrupted_training_goes_on_exactly(ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe(ready.root, qat={"epochs": 2})
    whole, broken, again = (ready.student(chosen) for _ in range(3))
    ready.train(chosen, whole, tmp_path / "whole")
    run_epoch = DistillingTrainer.run_epoch

    def interrupted(self: DistillingTrainer, epoch: int, *arguments: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt
        run_epoch(self, epoch, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DistillingTrainer, "run_epoch", interrupted)
        ready.train(chosen, broken, tmp_path / "broken")
    more = recipe(ready.root, qat={"epochs": 2}, quantize={"precisions": ["fp32", "int8", "int8-qat"]})
    ready.train(more, again, tmp_path / "broken")  # a precision more is no other training
    one, two = whole.state_dict(), again.state_dict()
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    assert not differing and any(not torch.equal(one[name], value) for name, value in broken.state_dict().items())
    with pytest.raises(InputError, match=r"qat\.temperature: 2\.0"):
        ready.train(recipe(ready.root, qat={"epochs": 2, "temperature": 3}), again, tmp_path / "broken")


def test_wrong_values_and_a_lost_loss(ready: Ready, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)qat\.batch_size.*at most 60"):
        ready.train(recipe(ready.root, qat={"batch_size": 61}), ready.student(recipe(ready.root)), tmp_path / "large")
    lost = recipe(ready.root, qat={"lr": 1e30, "clip_grad": None})
    with pytest.raises(RuntimeError, match=r"loss is nan in epoch 1.*\n.*lower qat\.lr"):
        ready.train(lost, ready.student(lost), tmp_path / "lost")


def test_two_processes(ready: Ready, tmp_path: Path) -> None:
    """As torchrun starts them, with gloo: the same weights and ranges in both, one log, every evaluation image counted once."""
    chosen = recipe(ready.root, qat={"epochs": 1})
    (tmp_path / "recipe.json").write_text(json.dumps(chosen.model_dump(mode="json", by_alias=True)))
    log = tmp_path / "log.txt"
    process = Forked(launch, train_quantized, 2, 0, ready.folder, tmp_path, log=log)
    assert process.wait(200) == 0, log.read_text()
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    differing = [name for name, value in one["state"].items() if not torch.equal(value, two["state"][name])]
    assert not differing and one["top1"] == two["top1"]
    assert any("_amax" in name for name in one["state"])
    begun = ready.student(chosen).state_dict()
    moved = [name for name, value in one["state"].items() if not torch.equal(value, begun[name])]
    assert len(moved) > 50 and not any("_amax" in name for name in moved), "weights are trained, ranges are not"
    assert log.read_text().count("epoch 1/1") == 1, "only rank 0 speaks"
