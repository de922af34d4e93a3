"""The report as Markdown: plain Python, so that a device writes it too."""

from typing import Any

from pipeline.console.figures import counted, megabytes, number, one_line, percent
from pipeline.report.values.format import (
    Commands,
    batch_sizes,
    class_count,
    data_warnings,
    drop,
    headed,
    how_measured,
    latency,
    rate,
    reasons,
    recommendation,
)
from pipeline.tasks.words import words_of


def markdown_table(report: dict[str, Any]) -> str:
    """The engines as a Markdown table, then the reason of every engine that has one; ends with a line end."""
    sizes, words = batch_sizes(report), words_of(report)
    head = ["Engine", "Backend", "Precision", f"{headed(words.score_name)} %", f"Δ {words.score_name} pp [95 %]"]
    head += ["Agreement %", "p50 ms"]
    head += [*(f"img/s b{size}" for size in sizes), "Size MB", "Status"]
    lines = [_markdown_row(head), _markdown_row(["---"] * 3 + ["---:"] * (len(head) - 4) + ["---"])]
    for variant in report["variants"]:
        chosen = variant["name"] == (report["recommended"] or {}).get("name")
        name = markdown_text(variant["name"])
        cells = [
            f"**{name}**" if chosen else name,
            markdown_text(variant["backend"]),
            markdown_text(variant["precision"]),
        ]
        cells += [number(variant[words.score]), drop(variant, words), number(variant["agreement"]), latency(variant)]
        cells += [*(rate(variant, size) for size in sizes), megabytes(variant["size_bytes"]), _markdown_status(variant)]
        lines.append(_markdown_row(cells))
    lines += [""] + [
        f"- {markdown_text(names)} ({status}): {markdown_text(why)}" for names, status, why in reasons(report)
    ]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_status(variant: dict[str, Any]) -> str:
    mark = {"pass": "pass", "fail": "❌ **fail**", "error": "❌ **error**", "unavailable": "unavailable"}
    return mark[variant["status"]] + (", Pareto" if variant["pareto"] else "")


def markdown_text(text: str) -> str:
    """Text that Markdown and the HTML inside it leave as it is, on one line, table cells included."""
    text = one_line(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "`*[]|~":
        text = text.replace(sign, f"\\{sign}")
    return text


def _code(text: str) -> str:
    """A Markdown code span, fenced with more backticks in a row than the text holds."""
    text, fence = one_line(text), "`"
    while fence in text:
        fence += "`"
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"


def markdown_page(
    report: dict[str, Any], reference: dict[str, Any], mode: dict[str, Any], commands: Commands | None = None,
    picture: str | None = "tradeoff.png",
) -> str:  # fmt: skip
    """report.md; `picture` is the name of a file beside it, None without one (a device has no matplotlib)."""
    conclusion, command = recommendation(report, commands)
    words = words_of(report)
    image = f"![Accuracy against latency]({picture})\n\n" if picture else ""
    machine, dataset = report["machine"], report["dataset"]
    warnings = "".join(f"**Warning:** {markdown_text(text)}.\n\n" for text in data_warnings(report))
    seen = f"{counted(class_count(report), 'class')}, {counted(dataset['eval_images'], 'image')}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    return f"""# {markdown_text(report["run"])}: {markdown_text(report["model"])} on {markdown_text(dataset["name"])}

**{markdown_text(conclusion)}.** Next: {_code(command)}

{markdown_text(reference["name"])}: {number(reference[words.score])} % {words.score_name}, \
{number(reference[words.second])} % {words.second_name}, {seen}. Gate: {percent(report["gate"][words.gate])} \
of its {words.score_name}.

{warnings}{markdown_table(report)}
{image}## How this was measured

{"".join(f"- {markdown_text(sentence)}{chr(10)}" for sentence in how_measured(report, reference, mode, commands))}
## Machine

- CPU: {markdown_text(machine["cpu"])}
- GPU: {markdown_text(machine["gpu"] or "none")}
- Versions: {markdown_text(versions)}
"""
