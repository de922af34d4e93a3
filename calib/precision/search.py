"""Find the mix of INT8 and FP32 layers that is fastest within limits of accuracy, or most accurate under a latency.

It builds and measures nothing itself: it is given a function that does, and calls it as seldom as it can (docs/search.md).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MOST_TRIALS = 25  # engines, FP32's included
MOST_BUNDLES = 10  # groups whose latency is measured one by one
MOST_EXTRAS = 4  # groups that are tried once more on top of the result
GIVE_AWAY = 0.02  # of FP32's latency: at most so much is given away for fewer INT8 layers, however large the noise
_LEAST_GAIN = 1e-6
_STARTS = (("weights",), ("weights", "attention"), ("weights", "residual"))

Names = frozenset[str]


@dataclass(frozen=True)
class Unit:
    """One layer that may be INT8: its node's name, sensitivity group, kind (weights, attention, residual) and KL alone."""

    name: str
    group: str
    kind: str
    kl: float


@dataclass(frozen=True)
class Trial:
    """What was measured of one mix. `passes`: within the limits of accuracy; `differing_pp`: images with another answer
    than FP32's, percent. `ratio` is its latency over that of FP32 measured beside it, with an error of ± `noise`; both
    latencies are None where accuracy was so bad that no engine was built.
    """

    units: Names
    passes: bool
    differing_pp: float
    latency_ms: float | None
    ratio: float | None
    noise: float


Evaluate = Callable[[Names, str], Trial]  # the units in INT8, and in words what is tried


@dataclass(frozen=True)
class Outcome:
    """The mix chosen. `complete`: the search ended by itself, not by its number of trials; `met`: within the budget."""

    chosen: Trial
    complete: bool
    met: bool = True


@dataclass(frozen=True)
class Bundle:
    """Units that are tried together, and what to call them."""

    label: str
    names: Names


class _OutOfTrials(Exception):
    """The number of trials is spent."""


def search_fastest(
    units: Sequence[Unit], evaluate: Evaluate, most: int = MOST_TRIALS, best: Names = frozenset()
) -> Outcome:
    """The fastest mix that passes. FP32 (no unit) passes by definition and is the answer where nothing is faster.

    `best` are the units that are known to be fastest in INT8 on this engine; the search starts there.
    """
    search = _Search(units, evaluate, most, best)
    search.attempt(frozenset(), "FP32")
    complete = True
    try:
        lean = search.lean(search.start())
        if not lean.passes:
            lean = search.cut(lean)
        search.widen(lean)
    except _OutOfTrials:
        complete = False
    return Outcome(search.fastest_passing(), complete)


def search_budget(
    units: Sequence[Unit], evaluate: Evaluate, budget_ms: float, most: int = MOST_TRIALS, best: Names = frozenset()
) -> Outcome:
    """The most accurate mix whose latency is at most `budget_ms`; where none is, the fastest, and `met` is False.

    `best` as in `search_fastest`.
    """
    search = _Search(units, evaluate, most, best)
    fp32 = search.attempt(frozenset(), "FP32")
    assert fp32.latency_ms is not None
    if fp32.latency_ms <= budget_ms:
        return Outcome(fp32, complete=True)
    complete = True
    try:
        search.lean(search.start(accuracy=False), accuracy=False)
        search.spend(budget_ms)
    except _OutOfTrials:
        complete = False
    within = search.within(budget_ms)
    if not within:
        return Outcome(search.fastest(), complete, met=False)
    return Outcome(min(within, key=search.loss), complete)


def faster(one: Trial, other: Trial) -> bool:
    """Whether `one` is faster by more than the noise of the two measurements."""
    return one.ratio is not None and other.ratio is not None and other.ratio - one.ratio > _margin(one, other)


def _margin(one: Trial, other: Trial) -> float:
    return math.hypot(one.noise, other.noise)


def bundle_groups(units: Iterable[Unit], most: int) -> list[Bundle]:
    """Units by group, the largest first; where there are more than `most`, the two smallest become one, repeatedly."""
    groups: dict[str, list[str]] = {}
    for unit in units:
        groups.setdefault(unit.group, []).append(unit.name)
    bundles = [Bundle(group, frozenset(names)) for group, names in groups.items()]
    while len(bundles) > most:
        bundles.sort(key=lambda bundle: (-len(bundle.names), bundle.label))
        last, other = bundles.pop(), bundles.pop()
        bundles.append(Bundle(f"{other.label}, {last.label}", other.names | last.names))
    return sorted(bundles, key=lambda bundle: (-len(bundle.names), bundle.label))


class _Search:
    """What has been tried so far, and the steps."""

    def __init__(self, units: Sequence[Unit], evaluate: Evaluate, most: int, best: Names):
        self._units = {unit.name: unit for unit in units}
        self._evaluate, self._most = evaluate, most
        self._best = best.intersection(self._units)
        self._trials: dict[Names, Trial] = {}
        self._gains: dict[str, float] = {}  # by unit: what INT8 saves, of FP32's latency
        self._slow: set[str] = set()  # units that INT8 makes no faster

    def attempt(self, names: Names, label: str) -> Trial:
        """Evaluate a mix, once."""
        if names not in self._trials:
            if len(self._trials) == self._most:
                raise _OutOfTrials
            self._trials[names] = self._evaluate(names, label)
        return self._trials[names]

    def start(self, accuracy: bool = True) -> Trial:
        """The best known set, if nothing is measurably faster of everything in INT8, weight layers alone, and those with
        attention or residual sums.

        One that fails on accuracy is taken only if it is measurably faster than the fastest that passes.
        """
        trials = [self.attempt(self._best, "the best known set of this backend")] if self._best else []
        trials.append(self.attempt(frozenset(self._units), "all in INT8"))
        for kinds in _STARTS:
            names = frozenset(unit.name for unit in self._units.values() if unit.kind in kinds)
            if names:
                trials.append(self.attempt(names, " and ".join(kinds)))
        measured = [trial for trial in trials if trial.ratio is not None]
        if not measured:
            return self.cut(trials[0] if self._best or len(trials) == 1 else trials[1])
        fastest, passing = self._first_of(measured), [trial for trial in measured if trial.passes]
        if not accuracy or not passing:
            return fastest
        safe = self._first_of(passing)
        return fastest if faster(fastest, safe) else safe

    def _first_of(self, trials: Sequence[Trial]) -> Trial:
        """The fastest of the trials, or the best known set where that is as fast, within the noise."""
        fastest = min(trials, key=_ratio)
        known = [trial for trial in trials if trial.units == self._best and not faster(fastest, trial)]
        return known[0] if known else fastest

    def lean(self, current: Trial, accuracy: bool = True) -> Trial:
        """Return to FP32 every group that is not measurably faster in INT8.

        Groups are left out one by one. What is faster without its group stays so; groups that make no difference are left
        out together, because many small gains under the noise are a large one.
        """
        idle: list[tuple[float, Bundle]] = []
        for bundle in bundle_groups([self._units[name] for name in sorted(current.units)], MOST_BUNDLES):
            without = self.attempt(current.units - bundle.names, f"without {bundle.label}")
            if without.ratio is None or current.ratio is None:
                continue
            gain = without.ratio - current.ratio
            self._gains |= dict.fromkeys(bundle.names, gain / len(bundle.names))
            if faster(without, current) and self._no_worse(without, current, accuracy):
                current = without
                self._slow |= bundle.names
            elif gain <= _margin(without, current):
                idle.append((gain, bundle))
        return self._leave_out(current, [bundle for _, bundle in sorted(idle, key=lambda pair: pair[0])], accuracy)

    def _leave_out(self, current: Trial, idle: list[Bundle], accuracy: bool) -> Trial:
        while idle:
            names = frozenset().union(*(bundle.names for bundle in idle))
            without = self.attempt(current.units - names, f"without {len(idle)} groups that gain nothing measurable")
            as_fast = without.ratio is not None and not faster(current, without)
            if as_fast and self._no_worse(without, current, accuracy):
                self._slow |= names
                return without
            idle = idle[: len(idle) // 2]
        return current

    def _no_worse(self, one: Trial, other: Trial, accuracy: bool) -> bool:
        return one.passes or not other.passes or not accuracy

    def cut(self, current: Trial) -> Trial:
        """Return units to FP32, those with the most KL for the time that they save first, until accuracy holds."""
        order, best = self._order(current.units), self._trials[frozenset()]
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            trial = self.attempt(frozenset(order[middle:]), f"without the {middle} most sensitive")
            if trial.passes:
                high, best = middle, trial
            else:
                low = middle
        return best

    def spend(self, budget_ms: float) -> None:
        """Return units of the fastest mix to FP32 in the same order, then by groups, as long as the budget holds."""
        current = self.fastest()
        if _latency(current) > budget_ms:
            return
        order = self._order(current.units)
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            trial = self.attempt(frozenset(order[middle:]), f"without the {middle} most sensitive")
            if _latency(trial) <= budget_ms:
                low, current = middle, trial
            else:
                high = middle
        for bundle in bundle_groups([self._units[name] for name in sorted(current.units)], MOST_BUNDLES):
            trial = self.attempt(current.units - bundle.names, f"also without {bundle.label}")
            if _latency(trial) <= budget_ms and self.loss(trial) < self.loss(current):
                current = trial

    def widen(self, current: Trial) -> None:
        """Put groups back into INT8, those with the most time saved for their KL first; half of a group that fails."""
        waiting = self._waiting(current)
        extras = MOST_EXTRAS
        while waiting:
            bundle = waiting.pop(0)
            tried_before = all(name in self._slow or name not in self._gains for name in bundle.names)
            if tried_before and extras == 0:
                continue
            extras -= tried_before
            trial = self.attempt(current.units | bundle.names, f"with {bundle.label} again")
            if trial.passes and faster(trial, current):
                current = trial
            elif not trial.passes and len(bundle.names) > 1:
                calm = self._order(bundle.names)[len(bundle.names) // 2 :]  # the half with less KL for its time
                waiting.append(Bundle(f"{len(calm)} of {bundle.label}", frozenset(calm)))

    def _waiting(self, current: Trial) -> list[Bundle]:
        """Groups that are not in INT8: first those that were returned for accuracy."""
        left_out = [unit for name, unit in self._units.items() if name not in current.units]
        known = [unit for unit in left_out if unit.name in self._gains and unit.name not in self._slow]
        others = [unit for unit in left_out if unit not in known]
        first = bundle_groups(known, MOST_BUNDLES)
        first.sort(key=lambda bundle: sum(map(self._worth, bundle.names)) / len(bundle.names))
        return first + [bundle for bundle in bundle_groups(others, MOST_BUNDLES) if not bundle.names & self._slow]

    def _order(self, names: Iterable[str]) -> list[str]:
        """The units that are first to be returned to FP32 first."""
        return sorted(names, key=lambda name: (-self._worth(name), name))

    def _worth(self, name: str) -> float:
        """KL for the time that INT8 saves; a unit whose time is not known saves what the others do on average."""
        known = list(self._gains.values())
        usual = sum(known) / len(known) if known else 1.0
        return self._units[name].kl / max(self._gains.get(name, usual), _LEAST_GAIN)

    def fastest(self) -> Trial:
        """The fastest trial, whatever its accuracy."""
        return min((trial for trial in self._trials.values() if trial.ratio is not None), key=_latency)

    def within(self, budget_ms: float) -> list[Trial]:
        """Trials whose latency is at most `budget_ms`."""
        return [trial for trial in self._trials.values() if _latency(trial) <= budget_ms]

    def loss(self, trial: Trial) -> tuple[bool, float, float]:
        """The smaller the more accurate: limits held, then answers changed, then KL of the units."""
        return not trial.passes, trial.differing_pp, sum(self._units[name].kl for name in trial.units)

    def fastest_passing(self) -> Trial:
        """Of the trials that pass and are as fast as the fastest, within the noise, the one with the fewest units."""
        passing = [trial for trial in self._trials.values() if trial.passes and trial.ratio is not None]
        fp32 = self._trials[frozenset()]
        best = min(passing, key=_ratio)
        if not faster(best, fp32):
            return fp32
        close = [
            trial for trial in passing
            if _ratio(trial) - _ratio(best) <= min(_margin(trial, best), GIVE_AWAY) and faster(trial, fp32)
        ]  # fmt: skip
        return min(close, key=lambda trial: (len(trial.units), _ratio(trial)))


def _ratio(trial: Trial) -> float:
    return math.inf if trial.ratio is None else trial.ratio


def _latency(trial: Trial) -> float:
    return math.inf if trial.latency_ms is None else trial.latency_ms
