"""The files of a sweep's outcome."""

import json
import os
from pathlib import Path

from pipeline.sweep.outcome.csv_table import sweep_csv
from pipeline.sweep.outcome.document import sweep_document
from pipeline.sweep.outcome.outcome import SweepOutcome
from pipeline.sweep.outcome.page import sweep_page
from pipeline.sweep.outcome.picture import sweep_picture
from pipeline.sweep.outcome.schema import check_sweep


def write_outcome(outcome: SweepOutcome, folder: Path) -> list[str]:
    """Write sweep.json, sweep.csv, sweep.html and sweep.png into `folder`; returns these names.

    Each is written whole or not at all, and none before all are made. ValueError where the outcome is none (see `check_sweep`),
    InputError where its points are of several tasks.
    """
    document = sweep_document(outcome)
    check_sweep(document)
    picture = sweep_picture(outcome)
    texts = {
        "sweep.json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "sweep.csv": sweep_csv(outcome),
        "sweep.html": sweep_page(outcome, picture),
    }
    contents = {name: text.encode("utf-8") for name, text in texts.items()} | {"sweep.png": picture}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        partial = folder / f".{name}.partial"
        partial.write_bytes(content)
        os.replace(partial, folder / name)
    return list(contents)
