"""The search against brute force on small made-up problems: noisy clocks, layers that depend on each other."""

import itertools

import numpy as np
import pytest

from calib.precision.search import (
    MOST_TRIALS,
    Trial,
    Unit,
    bundle_groups,
    faster,
    search_budget,
    search_fastest,
)

FP32_MS = 40.0


class Problem:
    """Twelve layers in six groups. Latency is a sum of what INT8 saves or costs each group, plus pairs that help each other;
    the loss is a sum over layers and pairs, of which the KL that the search is told is a noisy picture.
    """

    def __init__(self, seed: int, noise: float, scale: float = 1.0):
        rng = np.random.default_rng(seed)
        self.groups = ["a", "b", "c", "d", "scores", "residual"]
        kinds = dict(zip(self.groups, ["weights"] * 4 + ["attention", "residual"], strict=True))
        self.names = [f"{group}{index}" for group in self.groups for index in range(2)]
        self.saves = {
            name: float(rng.choice([0.08, 0.05, 0.02, 0.0, -0.03])) for name in self.groups for name in [name]
        }
        self.loss = {name: float(scale * rng.exponential(0.05)) for name in self.names}
        for name in rng.choice(self.names, 2, replace=False):
            self.loss[name] += scale * 0.4
        self.pairs = [tuple(rng.choice(self.names, 2, replace=False)) for _ in range(3)]
        self.units = [
            Unit(name, name[:-1], kinds[name[:-1]], float(self.loss[name] * rng.lognormal(0, 0.5)))
            for name in self.names
        ]
        self.noise, self.rng, self.asked = noise, np.random.default_rng(seed + 1), []

    def true_ratio(self, names: frozenset[str]) -> float:
        ratio = 1 - sum(self.saves[name[:-1]] / 2 for name in names)
        whole = sum({f"{group}0", f"{group}1"} <= names for group in self.groups)
        return max(ratio, 0.2) - 0.005 * whole * bool(names)

    def true_loss(self, names: frozenset[str]) -> float:
        return sum(self.loss[name] for name in names) + 0.05 * sum(set(pair) <= names for pair in self.pairs)

    def passes(self, names: frozenset[str]) -> bool:
        return self.true_loss(names) <= 0.3

    def evaluate(self, names: frozenset[str], label: str) -> Trial:
        assert label and names not in self.asked
        self.asked.append(names)
        error = float(self.rng.normal(0, self.noise / 2)) if names else 0.0
        ratio = self.true_ratio(names) * (1 + error)
        return Trial(names, self.passes(names), self.true_loss(names), ratio * FP32_MS, ratio, max(self.noise, 1e-3))

    def all_mixes(self) -> list[frozenset[str]]:
        return [frozenset(c) for size in range(len(self.names) + 1) for c in itertools.combinations(self.names, size)]


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_fastest_against_brute_force(noise: float) -> None:
    behind = []
    for seed in range(25):
        problem = Problem(seed, noise)
        outcome = search_fastest(problem.units, problem.evaluate)
        assert problem.passes(outcome.chosen.units), f"seed {seed}: over the limit"
        assert len(problem.asked) <= MOST_TRIALS
        best = min(problem.true_ratio(names) for names in problem.all_mixes() if problem.passes(names))
        behind.append(problem.true_ratio(outcome.chosen.units) - best)
    assert np.mean(behind) < 0.02 + noise, f"on average {np.mean(behind):.3f} of FP32's latency behind brute force"
    assert max(behind) < 0.1 + 2 * noise, f"at worst {max(behind):.3f} behind"


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_budget_against_brute_force(noise: float) -> None:
    behind = []
    for seed in range(25):
        problem = Problem(seed, noise)
        fastest = min(map(problem.true_ratio, problem.all_mixes()))
        budget = FP32_MS * (0.4 + 0.6 * fastest)  # 60 % of what could be saved
        outcome = search_budget(problem.units, problem.evaluate, budget)
        assert len(problem.asked) <= MOST_TRIALS and outcome.met
        assert outcome.chosen.latency_ms is not None and outcome.chosen.latency_ms <= budget
        best = min(
            problem.true_loss(names) for names in problem.all_mixes() if problem.true_ratio(names) * FP32_MS <= budget
        )
        behind.append(problem.true_loss(outcome.chosen.units) - best)
    assert np.mean(behind) < 0.15, f"on average {np.mean(behind):.3f} points behind brute force"


def test_budget_that_fp32_meets_and_one_that_nothing_meets() -> None:
    problem = Problem(0, 0.01)
    outcome = search_budget(problem.units, problem.evaluate, FP32_MS)
    assert outcome.chosen.units == frozenset() and outcome.met and len(problem.asked) == 1
    problem = Problem(0, 0.0)
    outcome = search_budget(problem.units, problem.evaluate, 1.0)
    assert not outcome.met
    assert outcome.chosen.latency_ms == pytest.approx(min(map(problem.true_ratio, problem.asked)) * FP32_MS)


def test_fp32_where_int8_is_slower_or_always_wrong() -> None:
    slow = Problem(1, 0.01)
    slow.saves = dict.fromkeys(slow.groups, -0.03)
    assert search_fastest(slow.units, slow.evaluate).chosen.units == frozenset()
    wrong = Problem(1, 0.01, scale=100)
    outcome = search_fastest(wrong.units, wrong.evaluate)
    assert wrong.passes(outcome.chosen.units)
    lossy = Problem(1, 0.01)
    lossy.loss = dict.fromkeys(lossy.names, 9.0)
    assert search_fastest(lossy.units, lossy.evaluate).chosen.units == frozenset()


def test_gains_under_the_noise_are_kept_where_together_they_are_one() -> None:
    problem = Problem(3, 0.0)
    problem.saves = dict.fromkeys(problem.groups, 0.02)
    problem.loss, problem.pairs = dict.fromkeys(problem.names, 0.001), []

    def evaluate(names: frozenset[str], label: str) -> Trial:
        trial = problem.evaluate(names, label)
        return Trial(trial.units, trial.passes, trial.differing_pp, trial.latency_ms, trial.ratio, 0.03)

    assert problem.true_ratio(search_fastest(problem.units, evaluate).chosen.units) < 0.9


def test_mixes_without_an_engine() -> None:
    """Where accuracy is so bad that nothing is built, there is no latency, and still an answer."""
    problem = Problem(4, 0.01)
    problem.saves = dict.fromkeys(problem.groups, 0.05)

    def evaluate(names: frozenset[str], label: str) -> Trial:
        trial = problem.evaluate(names, label)
        return trial if trial.passes else Trial(names, False, 100.0, None, None, 0.0)

    outcome = search_fastest(problem.units, evaluate)
    assert outcome.chosen.passes and problem.true_ratio(outcome.chosen.units) < 0.9


def test_the_number_of_trials_is_a_limit() -> None:
    problem = Problem(2, 0.01)
    outcome = search_fastest(problem.units, problem.evaluate, most=4)
    assert len(problem.asked) == 4 and not outcome.complete and problem.passes(outcome.chosen.units)


def test_the_same_measurements_give_the_same_search() -> None:
    runs = []
    for _ in range(2):
        problem = Problem(5, 0.02)
        search_fastest(problem.units, problem.evaluate)
        runs.append(problem.asked)
    assert runs[0] == runs[1]


def test_bundles() -> None:
    units = [
        Unit(f"{group}{i}", group, "weights", 0.1) for group, n in (("x", 3), ("y", 1), ("z", 1)) for i in range(n)
    ]
    assert [bundle.label for bundle in bundle_groups(units, 3)] == ["x", "y", "z"]
    merged = bundle_groups(units, 2)
    assert [sorted(bundle.names) for bundle in merged] == [["x0", "x1", "x2"], ["y0", "z0"]]


def test_faster_counts_the_noise_of_both() -> None:
    def trial(ratio: float | None) -> Trial:
        return Trial(frozenset(), True, 0.0, 1.0, ratio, 0.03)

    assert (
        faster(trial(0.9), trial(0.95)) and not faster(trial(0.92), trial(0.96)) and not faster(trial(None), trial(1.0))
    )


@pytest.mark.parametrize(("groups", "taken"), [(("a", "b"), True), (("a", "c"), False)])
def test_it_starts_from_the_best_known_set(groups: tuple[str, ...], taken: bool) -> None:
    """As long as nothing is measurably faster: here group a alone saves time, and c costs some."""
    problem = Problem(5, 0.0)
    problem.saves = dict.fromkeys(problem.groups, 0.0) | {"a": 0.08, "c": -0.05}
    problem.loss, problem.pairs = dict.fromkeys(problem.names, 0.001), []
    known = frozenset(name for name in problem.names if name[:-1] in groups)
    labels: list[str] = []

    def evaluate(names: frozenset[str], label: str) -> Trial:
        labels.append(label)
        return problem.evaluate(names, label)

    search_fastest(problem.units, evaluate, best=known | {"a layer that the graph does not have"})
    assert problem.asked[1] == known and labels[1] == "the best known set of this backend"
    lean = next(names for names, label in zip(problem.asked, labels, strict=True) if label.startswith("without"))
    assert (lean < known) is taken
