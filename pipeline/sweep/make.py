"""Make every result that is not there: what is known before, and what Ray has to run."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from pipeline.console.figures import counted, duration
from pipeline.sweep.options import Options, Say
from pipeline.sweep.planning.file import SweepFile
from pipeline.sweep.planning.plan import Node, Plan, Planned, find_results, plan_nodes
from pipeline.sweep.running.cluster import check_seen, machines_of, run_all
from pipeline.sweep.running.needs import Machines
from pipeline.sweep.running.node import Made, NotMade, made_of, too_low

Results = dict[str, Made | NotMade]


class OnDemand:
    """Ray's machines, asked for when the first result has to be made: where all is there, nothing is started."""

    def __init__(self, options: Options) -> None:
        self._options, self._stack = options, ExitStack()
        self._found: Machines | None = None

    def get(self) -> Machines:
        """InputError where there are none."""
        if self._found is None:
            self._found = self._stack.enter_context(machines_of(self._options.address, self._options.jobs))
            if self._options.address is not None:
                check_seen(self._options.folder)
        return self._found

    def close(self) -> None:
        """End Ray, if it was started."""
        self._stack.close()


def make(
    planned: Sequence[Planned], sweep: SweepFile, options: Options, machines: OnDemand, say: Say,
    stopped: Mapping[str, NotMade],
) -> tuple[Plan, Results]:  # fmt: skip
    """The plan of `planned`, and each node's result or why there is none; `stopped` are trainings that do not go on."""
    place = planned[0].folder.parent if planned else options.folder
    plan = plan_nodes(planned, find_results(place))
    known = known_results(plan, options.min_score, stopped)
    missing = len(plan.nodes) - len(known)
    say(
        f"{counted(len(planned), 'point')}, {counted(len(plan.nodes), 'result')} of stages: {missing or 'none'} to make"
    )
    if not missing:
        return plan, known
    done = 0

    def tell(node: Node, found: Made | NotMade) -> None:
        nonlocal done
        done += 1
        say(f"[{done:>{len(str(missing))}}/{missing}] {in_words(node, found)}")

    return plan, run_all(plan, sweep.needs, options.min_score, machines.get(), known, tell)


def known_results(plan: Plan, min_score: float | None, stopped: Mapping[str, NotMade]) -> Results:
    """Of each node that is there, or is not going to be: FP32's score is too low, or its training was stopped."""
    known: Results = {}
    for key, node in plan.nodes.items():
        inputs = [known[name] for name in node.inputs if name in known]
        missing = next((found for found in inputs if isinstance(found, NotMade)), None)
        low = too_low([found for found in inputs if isinstance(found, Made)], node.stage, min_score)
        if (why := missing or low) is not None:
            known[key] = why
        elif node.there is not None:
            known[key] = made_of(node.there, node.stage)
        elif key in stopped:
            known[key] = stopped[key]
    return known


def in_words(node: Node, found: Made | NotMade) -> str:
    """A line about a result: `t2t_vit_7-32: train, 41 s, for 6 points`."""
    name, shared = node.owner.point.name, f", for {len(node.points)} points" if len(node.points) > 1 else ""
    if isinstance(found, Made):
        return f"{name}: {node.stage}, {duration(found.seconds)}{shared}"
    if found.status == "failed" and found.stage == node.stage:
        return f"{name}: {node.stage} failed{shared}: {found.reason}"
    return f"{name}: {node.stage} left out: {found.reason}"
