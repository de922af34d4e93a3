"""sweep.png: every engine of every point, coloured by backend, the common front named, or numbered as in its table."""

from pipeline.console.figures import counted
from pipeline.report.tradeoff import draw_named_front
from pipeline.sweep.outcome.engines import done_points, engines_of, front_of, sweep_words
from pipeline.sweep.outcome.outcome import SweepOutcome
from pipeline.sweep.outcome.texts import short_name

_MOST_NAMED = 6  # engines of a front: more names would cover the picture


def sweep_picture(outcome: SweepOutcome) -> bytes:
    """PNG bytes (1280 × 800 pixels)."""
    front = front_of(outcome)
    named = {engine.key: short_name(engine) for engine in front}
    title = f"{outcome.name}: {counted(len(done_points(outcome)), 'point')}"
    if len(front) > _MOST_NAMED:
        named = {engine.key: str(number) for number, engine in enumerate(front, 1)}
        title += "; numbers: rows of the front's table"
    rows = [
        engine.variant | {"name": named.get(engine.key, ""), "pareto": engine.key in named}
        for engine in engines_of(outcome)
    ]
    return draw_named_front(rows, title, sweep_words(outcome))
