"""What a stage takes of a machine while it runs, as Ray counts it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.recipe import Recipe
from pipeline.sweep.planning.file import Needs

MACHINE = "machine"  # Ray's resource of which every machine has one; what measures takes all of it
MEASURING = ("search", "benchmark")
_A_LITTLE = 0.001  # of it: what everything else takes
_MOST_THREADS = 4  # of a training, if the file does not say
_GIGABYTES = {"train": 2.0, "qat": 2.0, "search": 2.0}
_FEWEST_GIGABYTES = 1.0
_GPU_BACKENDS = ("tensorrt", "inductor", "pytorch")


@dataclass(frozen=True)
class Machines:
    """Of the machines that there are: CPUs and bytes of the smallest, GPUs of all."""

    cpus: int
    memory: int
    gpus: float


def needs_of(stage: str, recipe: Recipe, machines: Machines, given: Mapping[str, Needs]) -> dict[str, Any]:
    """Options of a Ray task that runs `stage`: `num_cpus`, `num_gpus`, `memory` (bytes) and `resources`.

    What the sweep's file gives for the stage, else a default; never more than the smallest machine has, which else would wait
    for ever.
    """
    own = given.get(stage, Needs())
    gigabytes = own.memory_gb or _GIGABYTES.get(stage, _FEWEST_GIGABYTES)
    gpus = own.gpus if own.gpus is not None else float(machines.gpus > 0 and _uses_gpu(stage, recipe))
    return {
        "num_cpus": min(own.cpus or _threads(stage, recipe, machines.cpus), machines.cpus),
        "num_gpus": min(gpus, machines.gpus),
        "memory": min(int(gigabytes * 1e9), machines.memory),
        "resources": {MACHINE: 1 if stage in MEASURING else _A_LITTLE},
    }


def _threads(stage: str, recipe: Recipe, cpus: int) -> int:
    """That a stage computes on. Engines have `benchmark.threads` each, evaluated side by side; trainings share."""
    if stage in ("train", "qat"):
        return min(_MOST_THREADS, max(1, cpus // 2))
    engines = (
        sum(len(part.precisions) * max(1, len(part.targets)) for part in recipe.build) if stage == "evaluate" else 1
    )
    return recipe.benchmark.threads * engines if stage in ("evaluate", "visualize", "search", "benchmark") else 1


def _uses_gpu(stage: str, recipe: Recipe) -> bool:
    """Training does where there is one; the engines do that are TensorRT's or PyTorch's."""
    if stage in ("train", "qat"):
        return recipe.train.epochs > 0
    return stage in ("build", "evaluate", "benchmark", "search") and any(
        part.backend in _GPU_BACKENDS for part in recipe.build
    )
