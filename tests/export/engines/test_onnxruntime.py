"""How ONNX Runtime is asked to compute INT8: exactly where the CPU would overflow, at full speed where it cannot."""

from pathlib import Path
from typing import Any

import pytest

from export.engines import onnxruntime_backend


@pytest.mark.parametrize("overflows", [True, False])
def test_the_exact_way_is_asked_for_only_where_sums_would_overflow(
    monkeypatch: pytest.MonkeyPatch, overflows: bool
) -> None:
    """Elsewhere it would compute the same at up to twice the time."""
    asked: list[bool] = []

    class Session:
        def get_inputs(self) -> list[Any]:
            return []

        get_outputs = get_inputs

    def session(_: Path, options: Any) -> Session:
        try:
            asked.append(options.get_session_config_entry("session.x64quantprecision") == "1")
        except RuntimeError:  # no such entry was added
            asked.append(False)
        return Session()

    monkeypatch.setattr(onnxruntime_backend, "adds_pairs_in_16_bits", lambda: overflows)
    monkeypatch.setattr(onnxruntime_backend, "_session", session)
    onnxruntime_backend.load(Path("engine.onnx"), 1)
    assert asked == [overflows]
