"""The model repository, read with the server's own protobuf definition."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calib.preprocess import Preprocess
from pipeline.triton_repository import TritonModel, model_name, write_model

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
    ("backend", "platform", "file", "max_batch", "preferred"),
    [
        ("onnxruntime", "onnxruntime_onnx", "model.onnx", 8, [2, 4, 8]),
        ("tensorrt", "tensorrt_plan", "model.plan", 6, [2, 4, 6]),
        ("tensorrt", "tensorrt_plan", "model.plan", 2, [2]),
        ("onnxruntime", "onnxruntime_onnx", "model.onnx", 1, []),
    ],
)
def test_the_server_understands_the_configuration(
    model_config: ModuleType, spec: Preprocess, tmp_path: Path, backend: str, platform: str, file: str, max_batch: int,
    preferred: list[int],
) -> None:  # fmt: skip
    (tmp_path / "engine").write_bytes(b"engine")
    model = TritonModel(model_name("my run"), backend, spec, CLASSES, max_batch)
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
    assert not preferred or 0 < config.dynamic_batching.max_queue_delay_microseconds <= 10_000


def test_a_field_the_server_does_not_know_is_noticed(model_config: ModuleType) -> None:
    from google.protobuf import text_format

    with pytest.raises(text_format.ParseError):
        parsed(model_config, 'name: "x"\nmaximum_batch: 8')
