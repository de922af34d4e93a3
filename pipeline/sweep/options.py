"""What the command says of a sweep."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Where the sweep's runs lie, what an engine is to reach, and which machines are used.

    `budget_ms`: latency at batch 1; `min_score`: FP32's, in percent; `halving`: stop trainings that fall behind; `address`: of a
    Ray cluster; `jobs`: CPUs of this machine.
    """

    folder: Path
    budget_ms: float | None = None
    min_score: float | None = None
    halving: bool = False
    address: str | None = None
    jobs: int | None = None
