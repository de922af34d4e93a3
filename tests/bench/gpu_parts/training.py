"""A training step in BF16: the convolution form of the soft split against the literal unfold, images/s and peak memory."""

from functools import partial
from typing import Any

import torch
from bench.gpu_parts.clock import Turn, allow_tf32, take_turns, timing, wait
from bench.gpu_parts.failures import Progress, failure
from bench.gpu_parts.parts import Part, Scale
from bench.training_step import FORMS, Form, Step

MIB = 2**20
STEPS = 3  # before memory is looked at: kernels are chosen, and AdamW has its moments


def measure_training(
    part: Part, scale: Scale, device: torch.device, progress: Progress, without: dict[str, str], compiler: str
) -> dict[str, Any]:
    """A row for each form. Memory first, each form alone; then both take turns. TF32 is on, as in training."""
    torch.backends.cudnn.benchmark = True
    allow_tf32(True)
    make = partial(
        Step, part.network, size=part.size, batch=part.batch, device=device, amp=True,
        compiler=compiler if part.compiled else None,
    )  # fmt: skip
    _take_workspace(device)
    rows: dict[str, dict[str, Any]] = {form: {"failed": reason} for form, reason in without.items()}
    steps: dict[Form, Step] = {}
    for form in FORMS:
        if form in rows:
            continue
        progress.at(form)
        try:
            before = _allocated(device)
            steps[form] = make(form)
            rows[form] = _first_steps(steps[form], before, device)
        except Exception as error:  # kept as the row's reason; the other form goes on
            steps.pop(form, None)
            rows[form] = {"failed": failure(error, device, progress)}
    progress.at("turns")
    turns = {form: Turn(step, tf32=True) for form, step in steps.items()}
    seconds = take_turns(turns, scale.rounds, scale.turn_seconds, device)
    for form in turns:
        rows[form] |= timing(seconds[form], seconds.get("literal"), part.batch)
    return {"forms": rows}


def _take_workspace(device: torch.device) -> None:
    """cuBLAS keeps memory from its first product on: taken now, it is no form's."""
    for dtype in (torch.float32, torch.bfloat16):
        ones = torch.ones(64, 64, device=device, dtype=dtype)
        torch.addmm(ones[0], ones, ones)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _first_steps(step: Step, before: int, device: torch.device) -> dict[str, Any]:
    """The loss after some steps and, on a GPU, MiB at the peak of one more: weights, moments, gradients, what autograd keeps."""
    for _ in range(STEPS):
        loss = step()
    peak = None
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        wait(device)
        peak = round((torch.cuda.max_memory_allocated(device) - before) / MIB, 1)
    return {"loss": round(float(loss), 4), "peak_mib": peak}
