"""Every TensorRT name the code uses exists in every release it has to run on: seen without TensorRT, from its listing.

`names.json` lists the classes and members of four releases: for each class, a mask ("0111": in all but the
first) and the members that exist in just those; "" is the class itself. No type checker can see these names, so the
test follows the code: a variable's name says its TensorRT class, and a new variable has to be given one here.
"""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4] / "export" / "engines" / "tensorrt"
LISTING = json.loads((Path(__file__).parent / "names.json").read_text(encoding="utf-8"))
TENSORRT = ("10.3.0", "10.16.1", "11.4.0")
RTX = ("rtx-1.7.1",)
RELEASES = {
    "layers.py": TENSORRT + RTX,
    "build.py": TENSORRT + RTX,
    "options.py": TENSORRT + RTX,
    "progress.py": TENSORRT + RTX,
    "timing_cache.py": TENSORRT + RTX,
    "runner.py": TENSORRT + RTX,
    "lane.py": TENSORRT + RTX,
    "backend.py": TENSORRT,
    "rtx_backend.py": RTX,
}
WITHOUT_TENSORRT = {"__init__.py", "child_process.py", "cuda_calls.py", "cuda_device.py", "cuda_graph.py"}  # CUDA alone
MODULE = "module"
# Names that not all of a file's releases have: only in a function that asks `hasattr(…, "name")` first.
GUARDED = {
    ("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY"),  # not in 10.3.0
    ("IExecutionContext", "is_stream_capturable"),  # RTX alone
}
# Variable (or the last part of `self._engine`) → its class.
CLASSES = {
    "trt": MODULE, "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "profile": "IOptimizationProfile", "tensor": "ITensor", "layer": "ILayer",
    "error": "ParserError", "plan": "IHostMemory", "logger": "ILogger", "engine": "ICudaEngine",
    "context": "IExecutionContext", "runtime": "Runtime", "cache": "ITimingCache",
    "refitter": "Refitter", "onnx_refitter": "OnnxParserRefitter",
}  # fmt: skip
# Variables that bear one of these names and are something else, by the function they are in.
NOT_TENSORRT = {
    ("_product_precision", "layer"), ("parse_layers", "layer"), ("count_precisions", "layer"),
    ("describe_graph", "layer"), ("_is_kernel", "layer"),
}  # fmt: skip
# `Any` parameters that are not TensorRT's: a severity, which is only compared.
OTHER_ANY = {"severity"}
# What TensorRT's methods return that has members of its own; anything else they return has none that we use.
RETURNED = {
    "Builder": "builder", "create_network": "network", "OnnxParser": "parser", "create_builder_config": "config",
    "create_optimization_profile": "profile", "get_input": "tensor", "get_layer": "layer", "Runtime": "runtime",
    "build_serialized_network": "plan", "deserialize_cuda_engine": "engine", "create_execution_context": "context",
    "get_error": "error", "create_timing_cache": "cache", "get_timing_cache": "cache", "Refitter": "refitter",
    "OnnxParserRefitter": "onnx_refitter",
}  # fmt: skip


def releases_with(owner: str, member: str) -> set[str]:
    """The releases whose class `owner` has `member` ("" for the class itself)."""
    for mask, members in LISTING["names"].get(owner, {}).items():
        if member in members:
            return {name for name, bit in zip(LISTING["versions"], mask, strict=True) if bit == "1"}
    return set()


def last_name(node: ast.expr) -> str | None:
    """`engine` for `engine`, `self._engine` and `build.engine`."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr.lstrip("_") if isinstance(node, ast.Attribute) else None


def is_python(name: str) -> bool:
    return name.startswith("__")


def used_names(source: str) -> set[tuple[str, str]]:
    """Every (class, member) of TensorRT that the code names; the module's classes are (class, "")."""
    return set().union(*(uses for _, uses in used_in_functions(source)))


def used_in_functions(source: str) -> list[tuple[set[str], set[tuple[str, str]]]]:
    """Of each function: the names it asks `hasattr` for, and what it uses."""
    tree = ast.parse(source)
    found = []
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        nodes = list(ast.walk(function))
        uses = [
            owner_of(node, function.name)
            for node in nodes
            if isinstance(node, ast.Attribute) and not is_python(node.attr)
        ]
        uses += [overridden(node) for node in nodes if isinstance(node, ast.ClassDef)]
        found.append((asked_for(nodes), set().union(*uses)))
    return found


def asked_for(nodes: list[ast.AST]) -> set[str]:
    calls = [node for node in nodes if isinstance(node, ast.Call) and last_name(node.func) == "hasattr"]
    return {call.args[1].value for call in calls if isinstance(call.args[1], ast.Constant)}


def overridden(node: ast.ClassDef) -> set[tuple[str, str]]:
    """The methods of a class of ours that TensorRT calls: those its base class has."""
    bases = [base.attr for base in node.bases if isinstance(base, ast.Attribute) and last_name(base.value) == "trt"]
    methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef) and not is_python(item.name)]
    return {(base, method) for base in bases for method in methods}


def owner_of(node: ast.Attribute, function: str) -> set[tuple[str, str]]:
    variable = last_name(node.value)
    if variable is None or (function, variable) in NOT_TENSORRT:
        return set()
    if isinstance(node.value, ast.Attribute) and last_name(node.value.value) == "trt":
        return {(node.value.attr, node.attr)}  # trt.LayerType.EINSUM
    if variable not in CLASSES or (isinstance(node.value, ast.Name) and node.value.id == "self"):
        return set()
    return {(node.attr, "")} if CLASSES[variable] == MODULE else {(CLASSES[variable], node.attr)}


def missing_names(source: str, releases: tuple[str, ...]) -> list[str]:
    """Names that the code uses and one of `releases` lacks, guarded ones left out."""
    unguarded = {
        pair for asked, uses in used_in_functions(source) for pair in uses if not (pair in GUARDED and pair[1] in asked)
    }
    return [
        f"{owner}.{member or '(class)'} is not in {', '.join(sorted(set(releases) - releases_with(owner, member)))}"
        for owner, member in sorted(unguarded)
        if not set(releases) <= releases_with(owner, member)
    ]


def unknown_variables(source: str) -> list[str]:
    """Variables that hold a TensorRT object under a name the test would not follow."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id == "Any":
            if node.arg not in CLASSES and node.arg not in OTHER_ANY:
                found.append(f"parameter {node.arg}: Any")
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            want = RETURNED.get(last_name(node.value.func) or "")
            got = [last_name(target) for target in node.targets]
            if want is not None and got != [want]:
                found.append(f"{got} holds what {last_name(node.value.func)} returns: name it {want}")
    return found


@pytest.mark.parametrize("name", RELEASES)
def test_names_exist_in_every_release(name: str) -> None:
    source = (ROOT / name).read_text(encoding="utf-8")
    assert unknown_variables(source) == []
    assert missing_names(source, RELEASES[name]) == []


def test_every_tensorrt_file_is_checked() -> None:
    assert {path.name for path in ROOT.glob("*.py")} - WITHOUT_TENSORRT == set(RELEASES)


def test_guarded_names_are_used_exist_and_need_the_guard() -> None:
    """A mark that is not needed any more would hide the next mistake."""
    used = {pair for name in RELEASES for pair in used_names((ROOT / name).read_text(encoding="utf-8"))}
    for pair in GUARDED:
        assert pair in used and 0 < len(releases_with(*pair)) < len(LISTING["versions"]), pair


@pytest.mark.parametrize(
    ("guard", "missing"),
    [("hasattr(context, 'is_stream_capturable') and ", 0), ("", 1), ("hasattr(context, 'another_name') and ", 1)],
)
def test_a_guarded_name_without_its_guard_is_found(guard: str, missing: int) -> None:
    source = f"def run(context):\n    return {guard}context.is_stream_capturable(0)\n"
    assert len(missing_names(source, TENSORRT + RTX)) == missing


def test_the_code_is_really_followed() -> None:
    names = {pair for name in RELEASES for pair in used_names((ROOT / name).read_text(encoding="utf-8"))}
    assert {
        ("IExecutionContext", "execute_async_v3"), ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("IBuilderConfig", "set_compute_capability"), ("OnnxParser", "parse_from_file"), ("ILayer", "metadata"),
        ("ParserError", "node_operator"), ("ICudaEngine", "get_tensor_profile_shape"), ("TensorIOMode", "INPUT"),
        ("Runtime", "deserialize_cuda_engine"), ("IProgressMonitor", "step_complete"),
        ("IBuilderConfig", "set_timing_cache"),
        ("OnnxParserRefitter", "refit_from_file"), ("ITimingCache", "serialize"), ("ILogger", "log"),
        ("DataType", "FP8"),
        ("BuilderFlag", "SPARSE_WEIGHTS"), ("IExecutionContext", "set_device_memory"),
        ("ITensor", "shape"), ("OnnxParser", ""), ("nptype", ""),
    } <= names  # fmt: skip


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16 is not in 11.4.0, rtx-1.7.1"),
        ("config.int8_calibrator = None", "IBuilderConfig.int8_calibrator is not in 11.4.0, rtx-1.7.1"),
        ("self._engine.device_memory_size", "ICudaEngine.device_memory_size is not in"),
        ("trt.NoSuchClass()", "NoSuchClass.(class) is not in 10.16.1, 10.3.0, 11.4.0, rtx-1.7.1"),
        ("build.network.get_layers()", "INetworkDefinition.get_layers is not in 10.16.1, 10.3.0, 11.4.0, rtx-1.7.1"),
    ],
)
def test_a_name_that_a_release_lacks_is_found(code: str, message: str) -> None:
    found = missing_names(f"def build(trt, config, build):\n    {code}\n", TENSORRT + RTX)
    assert any(message in line for line in found), found


def test_a_variable_that_is_not_followed_is_found() -> None:
    source = "def build(trt: Any, thing: Any):\n    net = builder.create_network(1)\n"
    assert len(unknown_variables(source)) == 2
