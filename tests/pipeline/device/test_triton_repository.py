"""The model repository, read with the server's own protobuf definition."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calib.preprocess import Preprocess
from pipeline.device.triton_repository import VERSION_COMPATIBLE, TritonModel, batching, model_name, write_model

CLASSES = ("ankle boot", 'a "quoted" bag', "coat")


@pytest.fixture(scope="module")
def model_config() -> ModuleType:
    """`model_config_pb2` of tritonclient, by its path: importing it by name would import gRPC, too."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient is not installed: pip install -e '.[dev]'")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    found = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["model_config_pb2"] = module
    found.loader.exec_module(module)
    return module


def parsed(model_config: ModuleType, text: str) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(text, model_config.ModelConfig())


@pytest.mark.parametrize(
    ("backend", "platform", "file", "max_batch", "rates", "preferred", "wait"),
    [
        ("onnxruntime", "onnxruntime_onnx", "model.onnx", 8, {}, [8], 1000),
        ("onnxruntime", "onnxruntime_onnx", "model.onnx", 8, {"1": 883, "8": 1413}, [8], 2831),
        ("tensorrt", "tensorrt_plan", "model.plan", 6, {"1": 100, "2": 150.0, "4": 200, "8": 900}, [2, 4], 10_000),
        ("tensorrt", "tensorrt_plan", "model.plan", 2, {"1": 100, "2": 90.0}, [], None),
        ("onnxruntime", "onnxruntime_onnx", "model.onnx", 1, {"1": 883, "8": 1413}, [], None),
    ],
)
def test_the_server_understands_the_configuration(
    model_config: ModuleType, spec: Preprocess, tmp_path: Path, backend: str, platform: str, file: str, max_batch: int,
    rates: dict[str, float | None], preferred: list[int], wait: int | None,
) -> None:  # fmt: skip
    (tmp_path / "engine").write_bytes(b"engine")
    model = TritonModel(model_name("my run"), backend, spec, CLASSES, max_batch, rates, version_compatible=True)
    folder = write_model(model, tmp_path / "engine", tmp_path / "triton")
    config = parsed(model_config, (folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert config.name == folder.name == "my_run" and config.platform == platform
    assert config.default_model_filename == file and (folder / "1" / file).read_bytes() == b"engine"
    assert config.max_batch_size == max_batch
    (images,), (logits,) = config.input, config.output
    assert (images.name, images.data_type, list(images.dims)) == ("images", model_config.TYPE_UINT8, [32, 32, 3])
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", model_config.TYPE_FP32, [3])
    assert (folder / logits.label_filename).read_text(encoding="utf-8").splitlines() == list(CLASSES)
    assert list(config.dynamic_batching.preferred_batch_size) == preferred
    assert config.HasField("dynamic_batching") == bool(preferred)
    assert wait is None or config.dynamic_batching.max_queue_delay_microseconds == wait
    (group,) = config.instance_group
    kind = {"onnxruntime": group.KIND_CPU, "tensorrt": group.KIND_GPU}[backend]
    assert (group.count, group.kind) == (1, kind)


@pytest.mark.parametrize(
    ("rates", "max_batch", "expected"),
    [
        ({}, 8, ([8], 1000)),
        ({"1": 50.0, "8": None}, 8, ([8], 1000)),  # no batch was measured
        ({"1": 50.0, "16": 900.0}, 8, ([8], 1000)),  # nor one that the engine takes
        ({"1": 100.0, "2": 100.0, "4": 90.0, "8": 160.0}, 8, ([2, 8], 25_000)),  # 4 is slower than 2
        ({"8": 400.0, "1": 100.0, "2": 200.0}, 8, ([2, 8], 10_000)),  # in any order
        ({"1": 100.0, "8": 99.0}, 8, ([], 0)),  # gathering only costs
        ({"1": 1e6, "2": 4e6}, 8, ([2], 1)),  # µs are whole
        ({"1": 100.0, "8": 400.0}, 1, ([], 0)),
    ],
)
def test_batches_come_from_the_measured_table(
    rates: dict[str, float | None], max_batch: int, expected: tuple[list[int], int]
) -> None:
    assert batching(rates, max_batch) == expected


def test_the_configuration_says_what_it_comes_from(spec: Preprocess) -> None:
    model = TritonModel("mine", "tensorrt", spec, CLASSES, 8, {"1": 883.2, "8": 1413.4, "16": None})
    assert "# images a second by batch size: 1: 883.2, 8: 1413\n" in model.config()
    assert VERSION_COMPATIBLE not in model.config()
    assert (
        f"# the plan brings code of its own: the server needs {VERSION_COMPATIBLE}\n"
        in replace(model, version_compatible=True).config()
    )
    assert "# images a second by batch size: not measured" in replace(model, images_per_s={}).config()


def test_a_model_is_not_written_over_another(spec: Preprocess, tmp_path: Path) -> None:
    """An ONNX of an earlier backend would stay beside the plan."""
    (tmp_path / "engine").write_bytes(b"engine")
    write_model(TritonModel("mine", "onnxruntime", spec, CLASSES, 8), tmp_path / "engine", tmp_path / "triton")
    with pytest.raises(FileExistsError):
        write_model(TritonModel("mine", "tensorrt", spec, CLASSES, 8), tmp_path / "engine", tmp_path / "triton")


def test_a_fixed_batch_is_part_of_the_sizes(model_config: ModuleType, spec: Preprocess) -> None:
    """The server puts a free batch in front of the sizes only where `max_batch_size` is above 0."""
    config = parsed(
        model_config, TritonModel("mine", "onnxruntime", spec, CLASSES, 8, {"1": 9, "8": 99}, fixed_batch=4).config()
    )
    (images,), (logits,) = config.input, config.output
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert list(images.dims) == [4, 32, 32, 3] and list(logits.dims) == [4, 3]


def test_a_field_the_server_does_not_know_is_noticed(model_config: ModuleType) -> None:
    from google.protobuf import text_format

    with pytest.raises(text_format.ParseError):
        parsed(model_config, 'name: "x"\nmaximum_batch: 8')
