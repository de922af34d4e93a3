"""Ray, which places and restarts what the sweep has to run: on this machine alone, or on a cluster's."""

import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calib.errors import InputError
from export.cpu import available_cpus
from pipeline.console.figures import first_names
from pipeline.sweep.planning.file import Needs
from pipeline.sweep.planning.plan import Node, Plan
from pipeline.sweep.running.needs import MACHINE, Machines, needs_of
from pipeline.sweep.running.node import RETRIES, Job, Made, NotMade, run_node

_LONGEST = 300  # characters of a reason
_SEEN_SECONDS = 120.0
_ANSWER_SECONDS = 10.0
_STORE_BYTES = 100_000_000  # Ray's store of objects: what we pass are paths
START = (
    "ray start --head --resources '{\"machine\": 1}'   (other machines: ray start --address HOST:6379 --resources …)"
)


@contextmanager
def machines_of(address: str | None, jobs: int | None) -> Iterator[Machines]:
    """Ray on this machine, with as many CPUs as `jobs` says, or the cluster at `address`; ended, or left, at the end.

    InputError where Ray is not installed, where no cluster answers, or none of its machines is meant for this.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 else: latencies would be those of a process that gives way
    # What asks for no GPU sees them all the same: which engines run on a machine does not depend on the stage.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "Ray, which runs sweeps, is not installed", got=f"no package ray in {sys.prefix}",
            next_step="pip install -e '.[host,sweep]' -c constraints.txt",
        ) from error  # fmt: skip
    if address is not None:
        _check_answers(address)
    try:
        if address is None:
            cpus = jobs or available_cpus()
            ray.init(
                address="local",  # not the cluster that RAY_ADDRESS may name
                num_cpus=cpus, resources={MACHINE: 1}, include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, object_store_memory=_STORE_BYTES, runtime_env=_environment(),
            )  # fmt: skip
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_environment())
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield _machines(address)
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """InputError where nothing listens at HOST:PORT: Ray would wait for minutes, and then end this process."""
    host, _, port = address.rpartition(":")
    if address == "auto" or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> InputError:
    said = " ".join(str(error).split())[:200]
    return InputError(
        "no Ray cluster answers" if address else "Ray does not start on this machine",
        got=f"--address {address}: {said}" if address else said,
        allowed="HOST:PORT of a cluster's head, or auto" if address else None, next_step=START if address else None,
    )  # fmt: skip


def check_seen(folder: Path) -> None:
    """InputError where a machine of the cluster does not see `folder`: runs and images lie where all see them."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = folder.resolve() / f".seen-{uuid.uuid4().hex}"
    mark.write_text("", encoding="utf-8")
    seen = ray.remote(num_cpus=0)(_sees)
    try:
        asked = {
            node["NodeID"]: seen.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(mark), str(Path.cwd()))
            for node in _usable()
        }
        hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in _usable()}
        blind = [hosts.get(name, name) for name, answer in asked.items() if not ray.get(answer, timeout=_SEEN_SECONDS)]
    finally:
        mark.unlink()
    if blind:
        raise InputError(
            "machines of the cluster do not see the runs", got=f"{folder.resolve()} is not there on {first_names(blind, 4)}",
            allowed="one file system for runs, images and this checkout, in the same place on all machines",
            next_step="mount it there (NFS, Lustre …), or leave these machines out: ray start without the resource machine",
        )  # fmt: skip


def run_all(
    plan: Plan, given: Mapping[str, Needs], min_score: float | None, machines: Machines,
    there: Mapping[str, Made | NotMade], say: Callable[[Node, Made | NotMade], None],
) -> dict[str, Made | NotMade]:  # fmt: skip
    """Make every node that is not `there`; `say` is called with each as it ends. Ctrl-C cancels what runs.

    The order is Ray's: a task starts when what it reads is there and a machine has what it takes.
    """
    import ray
    from ray.exceptions import RayError

    remote = ray.remote(max_retries=RETRIES, retry_exceptions=False)(run_node)
    found: dict[str, Made | NotMade] = dict(there)
    tasks: dict[str, Any] = {}
    waiting: dict[Any, Node] = {}
    for key, node in plan.nodes.items():
        if key in found:
            continue
        needs = needs_of(node.stage, node.owner.resolved.recipe, machines, given)
        tasks[key] = remote.options(name=f"{node.stage} {node.owner.point.name}", **needs).remote(
            job_of(node, needs["num_cpus"], min_score), *(tasks.get(name, found.get(name)) for name in node.inputs)
        )
        waiting[tasks[key]] = node
    try:
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            node = waiting.pop(done)
            try:
                found[node.key] = ray.get(done)
            except RayError as error:
                found[node.key] = NotMade("failed", node.stage, died(error))
            say(node, found[node.key])
    except BaseException:
        for task in waiting:
            ray.cancel(task, force=True)
        raise
    return found


def job_of(node: Node, threads: int, min_score: float | None) -> Job:
    """What a process is told of a node."""
    one = node.owner
    return Job(one.point.name, node.stage, one.recipe_path, one.folder, Path.cwd(), threads, min_score)


def died(error: Exception) -> str:
    """A line about a process that ended without a result: Ray tries what died again, but not what it cannot begin."""
    text = f"no result from its process, which is tried {RETRIES + 1} times if it dies: {' '.join(str(error).split())}"
    return text[:_LONGEST]


def _environment() -> dict[str, Any]:
    """Ray's processes find this checkout, and import nothing else from the folder that the command was called in."""
    root = str(Path(__file__).resolve().parents[3])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}}


def _usable() -> Sequence[Mapping[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(MACHINE)]


def _machines(address: str | None) -> Machines:
    nodes = _usable()
    if not nodes:
        raise InputError(
            "no machine of the cluster is meant for sweeps", got=f"--address {address}: none has the resource {MACHINE}",
            allowed=f"machines with {MACHINE}: 1, of which a measurement takes all", next_step=START,
        )  # fmt: skip
    resources = [node["Resources"] for node in nodes]
    return Machines(
        int(min(found.get("CPU", 1) for found in resources)), int(min(found["memory"] for found in resources)),
        sum(found.get("GPU", 0.0) for found in resources),
    )  # fmt: skip


def _sees(mark: str, here: str) -> bool:
    return Path(mark).is_file() and Path(here).is_dir()
