"""The story of a sweep: points, what they have in common, what need not be made, and what came out."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from calib.errors import InputError
from pipeline.artifact import read_artifact
from pipeline.resolve.resolve import resolve
from pipeline.run.lock import hold
from pipeline.run.made_from import note_recipe
from pipeline.sweep.before_training import halve, leave_slow
from pipeline.sweep.make import OnDemand, Results, make
from pipeline.sweep.options import Options, Say
from pipeline.sweep.outcome.outcome import PointOutcome, SweepOutcome
from pipeline.sweep.planning.file import load_sweep
from pipeline.sweep.planning.plan import Plan, Planned, write_recipe
from pipeline.sweep.planning.points import Point, axes_of, make_points
from pipeline.sweep.running.adopt import adopt
from pipeline.sweep.running.node import Made, NotMade


def run_sweep(path: Path, options: Options, command: str, say: Say) -> SweepOutcome:
    """Make the runs of the sweep file `path` under `options.folder`, as far as they are not there, and say what came out.

    InputError for a wrong file or recipe, before anything runs. Exceptions of ctrl-C come through; what is finished is kept.
    """
    started = time.monotonic()
    sweep = load_sweep(path)
    points = make_points(sweep, path)
    planned = plan_points(points, options.folder)
    with ExitStack() as locks:
        for folder in (options.folder, *(one.folder for one in planned)):
            locks.enter_context(hold(folder, command))
        for one in planned:
            write_recipe(one, path)
            note_recipe(one.folder, one.recipe_path)
        machines = OnDemand(options)
        locks.callback(machines.close)
        left, probed = leave_slow(planned, sweep, options, machines, say)
        chosen = [one for one in planned if one.point.name not in left]
        stopped = halve(chosen, sweep, options, machines, say) if options.halving else {}
        plan, results = make(chosen, sweep, options, machines, say, stopped)
        _complete(chosen, plan, results)
    outcomes = [_outcome(one, plan, results, left, probed) for one in planned]
    return SweepOutcome(
        options.folder.name, str(sweep.recipe), axes_of(points), outcomes, options.budget_ms, options.min_score,
        time.monotonic() - started, _counts(plan), str(options.folder.parent),
    )  # fmt: skip


def plan_points(points: Sequence[Point], folder: Path, *, unpack: bool = True) -> list[Planned]:
    """Every point with its images looked at. InputError, which names the point, where one cannot run."""
    planned = []
    for point in points:
        try:
            resolved = resolve(point.recipe, unpack=unpack)
        except InputError as error:
            raise InputError(
                f"the point {point.name}: {error.what}", got=error.got, allowed=error.allowed, next_step=error.next_step
            ) from error
        planned.append(Planned(point, resolved, folder / point.name, "report"))
    return planned


def _complete(planned: Sequence[Planned], plan: Plan, results: Results) -> None:
    """Each run gets what others have made of its stages, so that it is an ordinary run, whole by itself."""
    for one in planned:
        for stage, key in plan.chains[one.point.name].items():
            found = results[key]
            if isinstance(found, Made) and (artifact := read_artifact(found.folder)) is not None:
                adopt(artifact, one.folder, stage)


def _outcome(
    one: Planned, plan: Plan, results: Results, left: Mapping[str, NotMade], probed: Mapping[str, Mapping[str, float]]
) -> PointOutcome:
    """What a point came to; of one that is done, its report."""
    name, values = one.point.name, dict(one.point.values)
    probe = probed.get(name)
    if name in left:
        reason = left[name]
        return PointOutcome(name, values, reason.status, reason.reason, reason.stage, None, probe, 0.0)
    chain = plan.chains[name]
    seconds = sum(
        found.seconds
        for key in chain.values()
        if isinstance(found := results[key], Made) and plan.nodes[key].owner.point.name == name
    )
    missing = next((results[key] for key in chain.values() if isinstance(results[key], NotMade)), None)
    if isinstance(missing, NotMade):
        return PointOutcome(name, values, missing.status, missing.reason, missing.stage, None, probe, seconds)
    report = json.loads((one.folder / "report" / "report.json").read_text(encoding="utf-8"))
    return PointOutcome(name, values, "done", None, None, report, probe, seconds)


def _counts(plan: Plan) -> dict[str, tuple[int, int]]:
    """How many results a stage has, and how often a point has another's."""
    counts: dict[str, tuple[int, int]] = {}
    for node in plan.nodes.values():
        made, shared = counts.get(node.stage, (0, 0))
        counts[node.stage] = (made + 1, shared + len(node.points) - 1)
    return counts
