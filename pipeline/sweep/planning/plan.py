"""What has to be made: each stage of each point, where points whose stage would be equal have it in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.artifact import Artifact, hash_of, read_artifact, read_manifest
from pipeline.resolve.resolve import Resolved
from pipeline.run.identify import identify
from pipeline.run.kept import find_kept
from pipeline.run.stage import Stage
from pipeline.run.work import find_work
from pipeline.stages import needed_stages, wanted_stages
from pipeline.sweep.planning.points import Point

RECIPES = "recipes"  # beside the runs of a sweep: a recipe for each point


@dataclass(frozen=True)
class Planned:
    """A point with its recipe as its stages read it, where its run lies, and the last stage that it is for."""

    point: Point
    resolved: Resolved
    folder: Path
    last: str

    @property
    def recipe_path(self) -> Path:
        """Where its recipe lies, beside the runs."""
        return self.folder.parent / RECIPES / f"{self.point.name}.yaml"

    @property
    def stages(self) -> list[Stage]:
        """In order: for a report all that the recipe wants, else what the last one is made of."""
        choose = wanted_stages if self.last == "report" else needed_stages
        return choose(self.resolved.recipe, self.last)


@dataclass(frozen=True)
class Node:
    """One stage of one or more points. `key` is equal where recipe, images, versions and all before it are: it is known before
    anything has run, unlike the key of the stage's result. It is made in the run of `owner`; `inputs` are keys of nodes.

    `there` is its result, where one of the sweep's runs has it.
    """

    key: str
    stage: str
    owner: Planned
    points: tuple[str, ...]
    inputs: tuple[str, ...]
    there: Artifact | None


@dataclass(frozen=True)
class Plan:
    """`nodes` by key, each after those that it reads; `chains` has the keys of each point's stages, by stage."""

    nodes: Mapping[str, Node]
    chains: Mapping[str, Mapping[str, str]]


def plan_nodes(planned: Sequence[Planned], results: Mapping[tuple[str, str], Artifact]) -> Plan:
    """The nodes of all points. `results` are finished results of the sweep's runs by stage and key (`find_results`)."""
    chains = {one.point.name: _chain(one) for one in planned}
    nodes: dict[str, Node] = {}
    for one in planned:
        chain = chains[one.point.name]
        for stage in one.stages:
            key = chain[stage.name]
            if key in nodes:
                continue
            sharing = [other for other in planned if chains[other.point.name].get(stage.name) == key]
            inputs = tuple(chain[name] for name in stage.inputs if name in chain)
            there, owner = _look_for(stage, sharing, {nodes[name].stage: nodes[name].there for name in inputs}, results)
            nodes[key] = Node(key, stage.name, owner, tuple(other.point.name for other in sharing), inputs, there)
    return Plan(nodes, chains)


def write_recipe(one: Planned, sweep: Path) -> None:
    """Write a point's recipe, an ordinary one, where it is not there already. Paths in it are as in the base recipe."""
    path, plain = one.recipe_path, yaml.safe_dump(dict(one.point.plain), sort_keys=False)
    text = f"# The point {one.point.name} of {sweep}: edit that, not this.\n{plain}"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def find_results(sweep_folder: Path) -> dict[tuple[str, str], Artifact]:
    """Every whole result of the runs in a sweep's folder, of earlier values too, by stage and key."""
    found: dict[tuple[str, str], Artifact] = {}
    for pattern in ("*/*/manifest.json", "*/.kept/*/*/manifest.json"):
        for path in sorted(sweep_folder.glob(pattern)):
            manifest, artifact = read_manifest(path.parent), read_artifact(path.parent)
            if manifest and artifact:
                found.setdefault((str(manifest.get("stage")), artifact.key), artifact)
    return found


def _chain(one: Planned) -> dict[str, str]:
    chain: dict[str, str] = {}
    for stage in one.stages:
        own = identify(stage, one.resolved.recipe, {}, one.resolved.look).key
        chain[stage.name] = hash_of([own, [chain[name] for name in stage.inputs if name in chain]])
    return chain


def _look_for(
    stage: Stage, sharing: Sequence[Planned], inputs: Mapping[str, Artifact | None],
    results: Mapping[tuple[str, str], Artifact],
) -> tuple[Artifact | None, Planned]:  # fmt: skip
    """A node's result if it is there, and the point whose run it is made in: the first, or one that was interrupted in it."""
    done = {name: artifact for name, artifact in inputs.items() if artifact is not None}
    if len(done) < len(inputs):
        return None, sharing[0]
    first = sharing[0]
    key = identify(stage, first.resolved.recipe, done, first.resolved.look).key
    for one in sharing:
        artifact = read_artifact(one.folder / stage.name)
        if artifact is not None and artifact.key == key:
            return artifact, one
        if (kept := find_kept(one.folder / stage.name, key)) is not None:
            return kept, one
    if stage.name != "report" and (elsewhere := results.get((stage.name, key))) is not None:  # a report names its run
        return elsewhere, first
    begun = [one for one in sharing if find_work(stage, one.folder / stage.name, key) is not None]
    return None, [*begun, first][0]
