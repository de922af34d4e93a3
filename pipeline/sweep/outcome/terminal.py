"""A sweep in the terminal: the front, what each axis gains, what was not finished, and the engine to take."""

from typing import TYPE_CHECKING, Any

from pipeline.console.figures import counted, duration, first_names, megabytes, number, signed
from pipeline.report.values.format import drop, headed, latency, rate
from pipeline.sweep.outcome.engines import Engine, front_of, sweep_cautions, sweep_words
from pipeline.sweep.outcome.gains import Gain, axes_without_pairs, gains_of
from pipeline.sweep.outcome.outcome import SweepOutcome
from pipeline.sweep.outcome.texts import conclusion, counts_text, predict_command, stages_text, unfinished, value_text

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"failed": "red", "skipped": "yellow", "stopped": "dim"}


def print_outcome(outcome: SweepOutcome, console: "Console | None" = None) -> None:
    """Print the engines of the front, by rising latency, the gains, the points that are not done, and the next command."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a pipe or a log has no width of its own
    front, gains = front_of(outcome), gains_of(outcome)
    text, command, good = conclusion(outcome)
    if front:
        console.print(_front_table(outcome, front, command))
    if gains:
        console.print()
        console.print(_gains_table(outcome, gains))
    console.print()
    for names, what, reason in unfinished(outcome):
        console.print(Text.assemble((first_names(names), "bold"), f" ({what})", style=_COLOURS[what.split()[0]]))
        console.print(Padding(Text(reason), (0, 0, 0, 2)))
    for caution in sweep_cautions(outcome):
        console.print(Text(caution, style="yellow"))
    console.print(
        Text(
            f"{counts_text(outcome)}; this call took {duration(outcome.seconds)}. Stages: {stages_text(outcome) or 'none'}."
        )
    )
    console.print()
    console.print(Text(text, style="bold green" if good else "bold red"))
    if command:
        console.print(Text.assemble("Next: ", (command, "bold")), soft_wrap=True)


def _front_table(outcome: SweepOutcome, front: list[Engine], command: str | None) -> Any:
    """The engines that no other of the sweep beats; the one to take in green."""
    from rich.text import Text

    words = sweep_words(outcome)
    figures = (f"{headed(words.score_name)} %", "Δ pp [95 %]", "p50 ms", "img/s b1", "MB")
    table = _table(("#", "point", "engine"), figures)
    for place, engine in enumerate(front, 1):
        variant = engine.variant
        cells = [
            str(place), engine.point.name, variant["name"], number(variant[words.score]), drop(variant, words),
            latency(variant), rate(variant, "1"), megabytes(variant["size_bytes"]),
        ]  # fmt: skip
        taken = command == predict_command(outcome, *engine.key)
        table.add_row(*map(Text, cells), style="bold green" if taken else "")
    size = counted(len(front), "engine")
    table.caption = f"The Pareto front of all points, {size}: no engine is both faster and more accurate"
    table.caption_justify = "left"
    return table


def _gains_table(outcome: SweepOutcome, gains: list[Gain]) -> Any:
    from rich.text import Text

    words = sweep_words(outcome)
    table = _table(("axis", "value", "against"), (f"{words.score_name} pp", "latency ×", "pairs"))
    for index, gain in enumerate(gains):
        cells = [
            gain.axis if index == 0 or gains[index - 1].axis != gain.axis else "", value_text(gain.value),
            value_text(gain.against), signed(gain.score_pp), number(gain.latency_ratio), str(gain.pairs),
        ]  # fmt: skip
        table.add_row(*map(Text, cells))
    table.caption = "Means over pairs that differ in this axis alone; the page says how"
    if alone := axes_without_pairs(outcome, gains):
        table.caption += f". Without pairs: {', '.join(alone)}"
    table.caption_justify = "left"
    return table


def _table(names: tuple[str, ...], figures: tuple[str, ...]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table
