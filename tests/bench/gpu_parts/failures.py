"""What a failure becomes: a row with its reason. One that leaves the GPU unusable ends the process; the next one goes on."""

import gc
import json
from pathlib import Path

import torch

LONGEST = 300  # characters of a reason
RESULT, PROGRESS = "result.json", "progress.json"  # in the folder of a process that measures a part


class NotHere(Exception):
    """This machine cannot have the variant: no failure."""


class Progress:
    """What the process is at, in a file that outlives it."""

    def __init__(self, path: Path | None):
        self.path, self.name = path, ""

    def at(self, name: str, reason: str = "") -> None:
        """Before a variant is made ready; with a `reason` when it has left the device unusable."""
        self.name = name
        if self.path is not None:
            self.path.write_text(json.dumps({"at": name, "reason": reason}), encoding="utf-8")


def in_words(error: BaseException) -> str:
    """The kind and the message, in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]


def failure(error: Exception, device: torch.device, progress: Progress | None = None) -> str:
    """The reason, once what the failed variant held is free. SystemExit where the device does not answer any more."""
    reason = in_words(error)
    error.__traceback__ = None  # its frames hold tensors
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
        except RuntimeError as gone:
            if progress is not None:
                progress.at(progress.name, reason)
            raise SystemExit(f"{reason}; then {in_words(gone)}") from gone
    return reason
