"""What need not be trained, or not to its end: points that are too slow for the budget, and trainings that fall behind."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.console.figures import counted
from pipeline.sweep.make import OnDemand, make
from pipeline.sweep.options import Options, Say
from pipeline.sweep.planning.file import SweepFile
from pipeline.sweep.planning.plan import Planned, find_results, plan_nodes
from pipeline.sweep.probe import latencies, probes_of, too_slow
from pipeline.sweep.running.cluster import job_of
from pipeline.sweep.running.halving import rungs, stopped_before, train_by_halving
from pipeline.sweep.running.needs import needs_of
from pipeline.sweep.running.node import NotMade

PROBES = ".probes"  # in the sweep's folder: runs of random weights


def leave_slow(
    planned: Sequence[Planned], sweep: SweepFile, options: Options, machines: OnDemand, say: Say
) -> tuple[dict[str, NotMade], dict[str, dict[str, float]]]:
    """The points that cannot meet the budget, and what was measured of each, by engine's name, in ms."""
    probes = [] if options.budget_ms is None else probes_of(planned, options.folder / PROBES)
    if options.budget_ms is None or not probes:
        return {}, {}
    say(f"measuring {counted(len(probes), 'point')} with random weights, before anything is trained")
    plan, results = make(probes, sweep, replace(options, min_score=None), machines, say, {})
    measured = {one.point.name: latencies(results[plan.chains[one.point.name]["benchmark"]]) for one in probes}
    slow = {name: reason for name, found in measured.items() if (reason := too_slow(found, options.budget_ms))}
    for name, reason in slow.items():
        say(f"{name}: not trained: {reason.reason}")
    return slow, measured


def halve(
    planned: Sequence[Planned], sweep: SweepFile, options: Options, machines: OnDemand, say: Say
) -> dict[str, NotMade]:
    """Train by successive halving; the trainings that were stopped, now or before, by the node's key."""
    plan = plan_nodes(planned, find_results(options.folder))
    trained = {
        key: node
        for key, node in plan.nodes.items()
        if node.stage == "train" and node.owner.resolved.recipe.train.epochs > 0
    }
    stopped = stopped_before(options.folder)
    missing = [key for key, node in trained.items() if node.there is None and key not in stopped]
    if missing and len(trained) > 1:
        lengths = {key: node.owner.resolved.recipe.train.epochs for key, node in trained.items()}
        every = [node.owner.resolved.recipe.train.eval_every for node in trained.values()]
        longest, first = rungs(list(lengths.values()), every)
        say(
            f"{counted(len(missing), 'training')} by successive halving: at least {counted(first, 'epoch')} each, "
            f"and at most {longest}"
        )
        needs = needs_of("train", trained[missing[0]].owner.resolved.recipe, machines.get(), sweep.needs)
        jobs = {key: job_of(node, needs["num_cpus"], options.min_score) for key, node in trained.items()}
        train_by_halving(jobs, missing, lengths, first, needs, options.folder, say)
    return stopped_before(options.folder)
