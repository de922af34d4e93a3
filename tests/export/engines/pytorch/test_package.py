"""Where Inductor compiles: in a folder of the build's own, which nobody could have made before, and which is gone afterwards."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from torch import nn

from export.engines.pytorch.package import compile_package

CACHE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    return torch.export.export(nn.Linear(2, 2).eval(), (torch.randn(1, 2),), strict=False)


@pytest.mark.parametrize("before", [None, "/tmp/torchinductor_user"])
def test_it_compiles_beside_the_engine_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: torch.export.ExportedProgram, before: str | None
) -> None:
    """PyTorch itself puts its folder of /tmp into the environment when it is imported."""
    seen: list[Path] = []

    def compile_it(_: Any, package_path: str, inductor_configs: dict[str, Any]) -> None:
        place = Path(os.environ[CACHE])
        seen.append(place)
        assert place.stat().st_mode & 0o077 == 0, "others may not read or write there"
        (place / "kernel.so").write_bytes(b"code")
        Path(package_path).write_bytes(b"PK")
        # whose folder is that of /tmp whatever the environment says
        assert not inductor_configs["cpp_cache_precompile_headers"]
        assert not inductor_configs["aot_inductor.precompile_headers"]

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_it)
    if before is None:
        monkeypatch.delenv(CACHE, raising=False)
    else:
        monkeypatch.setenv(CACHE, before)
    compile_package(program, tmp_path / "engine.pt2", {})
    assert seen[0].parent == tmp_path and [path.name for path in tmp_path.iterdir()] == ["engine.pt2"]
    assert os.environ.get(CACHE) == before


def test_where_it_fails_its_folder_is_gone_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: torch.export.ExportedProgram
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AttributeError("no such pattern")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", refuse)
    monkeypatch.setenv(CACHE, "/tmp/torchinductor_user")
    with pytest.raises(RuntimeError, match="PyTorch's Inductor: no such pattern"):
        compile_package(program, tmp_path / "engine.pt2", {})
    assert list(tmp_path.iterdir()) == [] and os.environ[CACHE] == "/tmp/torchinductor_user"
