"""Successive halving over epochs: trainings that fall behind the others are stopped, by Ray Tune's ASHA.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020): at each rung of epochs the better third goes on.
"""

import csv
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifact import write_json
from pipeline.run.work import work_place
from pipeline.sweep.running.node import RETRIES, Job, NotMade, run_node

REDUCTION = 3  # of the trainings at a rung, one in so many goes on
METRICS = "metrics.csv"
_RECORD = "halving.json"  # in the sweep's folder: what was stopped, and stays so
_POLL_SECONDS = 0.5


def stopped_before(folder: Path) -> dict[str, NotMade]:
    """What an earlier call has stopped in this sweep's folder, by the node's key."""
    path = folder / _RECORD
    if not path.is_file():
        return {}
    record: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return {key: NotMade("stopped", "train", reason) for key, reason in record.items()}


def train_by_halving(
    jobs: Mapping[str, Job],
    open_: Sequence[str],
    lengths: Mapping[str, int],
    first: int,
    needs: Mapping[str, Any],
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Train the nodes `open_` of `jobs` beside each other and stop those that fall behind, which is noted in `folder`.

    The others, finished or stopped before, take part with the scores that they had. `lengths` are the epochs of each
    node's training, `first` those that each gets in any case, `needs` what one takes (`pipeline.sweep.running.needs`).
    """
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ctrl-C ends the command
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    longest = max(lengths.values())
    bundle = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": needs["memory"], **needs["resources"]}
    trainable = tune.with_resources(_trial, tune.PlacementGroupFactory([bundle]))
    tuner = tune.Tuner(
        tune.with_parameters(trainable, jobs=dict(jobs), open_=list(open_), lengths=dict(lengths)),
        param_space={"key": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(
            metric="score", mode="max",
            scheduler=ASHAScheduler(time_attr="epoch", max_t=longest, grace_period=first, reduction_factor=REDUCTION),
        ),
        run_config=tune.RunConfig(
            name="asha", storage_path=str((folder / ".halving").resolve()), verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )  # fmt: skip
    stopped = {key: found.reason for key, found in stopped_before(folder).items()}
    results = tuner.fit()
    for result in (results[index] for index in range(len(results))):
        key = str((result.config or {}).get("key"))
        if key not in open_ or result.error is not None or (result.metrics or {}).get("finished", True):
            continue  # a failure shows when the point's stage is run
        assert result.metrics is not None
        epoch, score = result.metrics["epoch"], result.metrics["score"]
        stopped[key] = f"stopped after {epoch} epochs at {score:.2f} %: others were better by then (--halving)"
        say(f"{jobs[key].point}: {stopped[key]}")
        write_json(folder / _RECORD, stopped)


def _trial(
    config: Mapping[str, Any], jobs: Mapping[str, Job], open_: Sequence[str], lengths: Mapping[str, int]
) -> None:
    """One training, and what it reaches after each epoch that is evaluated; Ray ends the process where it is to stop.

    Its last epoch is told when the training is over and its weights are written: at the longest training's last epoch Ray ends
    the process in any case.
    """
    from ray import tune

    job = jobs[config["key"]]
    training = threading.Thread(target=run_node, args=(job,), daemon=True)
    if config["key"] in open_:
        training.start()
    said = 0
    while True:
        alive = training.is_alive()  # before the last look at what it wrote
        rows = list(scores_of(job.run_folder))
        before = [row for row in rows if row[0] < lengths[config["key"]]]
        for epoch, score in before[said:]:
            tune.report({"epoch": epoch, "score": score, "finished": False})
        said = len(before)
        if not alive:
            break
        time.sleep(_POLL_SECONDS)
    if rows:
        tune.report({"epoch": rows[-1][0], "score": rows[-1][1], "finished": True})


def scores_of(run_folder: Path) -> Iterator[tuple[int, float]]:
    """Epoch and score in percent of each evaluation of a run's training, finished or not."""
    folder = run_folder / "train"
    path = next((place / METRICS for place in (work_place(folder), folder) if (place / METRICS).is_file()), None)
    if path is None:
        return
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values = [value for name, value in row.items() if name and name.startswith(("ema_", "val_")) and value]
            if values:
                yield int(row["epoch"]), float(values[-1])


def rungs(epochs: Sequence[int], every: Sequence[int]) -> tuple[int, int]:
    """The longest of some trainings, and how many epochs each gets in any case: a ninth of it, and at least one evaluation."""
    longest = max(epochs)
    return longest, min(longest, max(*every, round(longest / REDUCTION**2), 1))
