"""`t2t-edge sweep --dry-run`: the points, and which results would be made for how many of them."""

from pathlib import Path
from typing import Any

from pipeline.sweep.make import known_results
from pipeline.sweep.options import Options
from pipeline.sweep.planning.file import load_sweep
from pipeline.sweep.planning.plan import find_results, plan_nodes
from pipeline.sweep.planning.points import axes_of, make_points
from pipeline.sweep.running.halving import stopped_before
from pipeline.sweep.sweep import plan_points


def tell_plan(path: Path, options: Options, command: str) -> dict[str, Any]:
    """Print the points and, by stage, how many results they have in common and how many are not there; the same as values.

    Nothing is written but the cache of what images hold.
    """
    points = make_points(load_sweep(path), path)
    planned = plan_points(points, options.folder, unpack=False)
    plan = plan_nodes(planned, find_results(options.folder))
    known = known_results(plan, options.min_score, stopped_before(options.folder) if options.halving else {})
    stages: dict[str, dict[str, int]] = {}
    for key, node in plan.nodes.items():
        row = stages.setdefault(node.stage, {"results": 0, "to_make": 0})
        row["results"] += 1
        row["to_make"] += key not in known
    for key, values in axes_of(points).items():
        print(f"  {key}: {', '.join(map(str, values))}")
    print(f"  {len(points)} points in {options.folder}: {', '.join(point.name for point in points)}")
    for stage, row in stages.items():
        print(f"  {stage:>11}: {row['results']:>3} for {len(points)} points, {row['to_make'] or 'none'} to make")
    again = command.replace(" --dry-run", "")
    print(f"  nothing was written; next: {again}")
    return {"dry_run": True, "points": [point.name for point in points], "stages": stages, "next": again}
