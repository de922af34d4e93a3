"""How a report's values read: shared by the terminal, Markdown and HTML, so that the three never disagree."""

import shlex
from dataclasses import dataclass
from typing import Any

from pipeline.console.figures import MISSING, counted, number, one_line, percent, quantity, signed, without_images
from pipeline.report.values.rows import gate_failed
from pipeline.report.values.task_texts import TEXTS
from pipeline.tasks.words import Words, words_of

PARETO_NOTE = "* on the Pareto front: no engine in this table is both faster and more accurate"


@dataclass(frozen=True)
class Commands:
    """What a reader of a report runs next; `again` also says with what."""

    predict: str
    benchmark: str
    rerun: str
    doctor: str
    again: str


DEVICE_COMMANDS = Commands(
    "./t2t predict IMAGE", "./t2t benchmark", "./t2t run", "./t2t doctor", "./t2t run, in the bundle"
)


def host_commands(run: str) -> Commands:
    """Of a run on the host."""
    name = shlex.quote(run)
    return Commands(
        f"t2t-edge predict --run {name} IMAGE", f"t2t-edge benchmark --run {name}", f"make export RUN={name}", "t2t-edge doctor",
        f"make export RUN={name}, with RECIPE= this run's recipe",
    )  # fmt: skip


def headed(name: str) -> str:
    """What a score is called at the head of a column: `Top-1`, `Pixel accuracy`, and `mIoU` as it is."""
    return name if name != name.lower() else name[:1].upper() + name[1:]


def drop(variant: dict[str, Any], words: Words) -> str:
    """`−0.12 [−0.30, +0.05]`, percentage points of the score against the reference; one digit less from 10 up."""
    delta, interval = variant[words.delta], variant["ci95_pp"]
    if delta is None:
        return MISSING
    digits = 2 if abs(delta) < 9.5 else 1
    if interval is None:
        return signed(delta, digits)
    return f"{signed(delta, digits)} [{signed(interval[0], digits)}, {signed(interval[1], digits)}]"


def latency(variant: dict[str, Any], percentile: str = "p50") -> str:
    """Milliseconds at batch 1."""
    return quantity(variant["latency_ms"][percentile] if variant["latency_ms"] else None)


def rate(variant: dict[str, Any], batch: str) -> str:
    """Images a second at a batch size."""
    return quantity((variant["images_per_s"] or {}).get(batch))


def batch_sizes(report: dict[str, Any]) -> list[str]:
    """The batch sizes that any variant was measured at, rising."""
    return sorted({batch for variant in report["variants"] for batch in variant["images_per_s"] or {}}, key=int)


def reasons(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(names, status, reason) of every variant that has a reason; those that share one are named together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for variant in report["variants"]:
        if variant["reason"]:
            groups.setdefault((variant["status"], one_line(variant["reason"])), []).append(variant["name"])
    return [(", ".join(names), status, reason) for (status, reason), names in groups.items()]


def class_count(report: dict[str, Any]) -> int:
    """How many classes the dataset has, whether the report names or only counts them."""
    classes = report["dataset"]["classes"]
    return len(classes) if isinstance(classes, list) else int(classes)


def data_warnings(report: dict[str, Any]) -> list[str]:
    """What is said beside the results of images that leave something open; [] mostly."""
    missing = report["dataset"].get("classes_without_images")
    return [one_line(without_images(missing, class_count(report)))] if missing else []


def chance_warning(report: dict[str, Any]) -> str:
    """Said of a network whose FP32 score could be luck; "" of any other."""
    return TEXTS[words_of(report).task].luck(report, class_count(report))


def recommendation(report: dict[str, Any], commands: Commands | None = None) -> tuple[str, str]:
    """What the report comes to, and the next command to run: a host's unless `commands` says otherwise."""
    commands, chosen, words = commands or host_commands(report["run"]), report["recommended"], words_of(report)
    if chosen:
        (variant,) = [v for v in report["variants"] if v["name"] == chosen["name"]]
        score = f"{number(variant[words.score])} % {words.score_name}"
        text = f"Recommended: {variant['name']}, {score}, {latency(variant)} ms at batch 1"
        warning = chance_warning(report)
        return f"{text}. {warning}" if warning else text, commands.predict
    found = {variant["status"] for variant in report["variants"]}
    if "pass" in found:
        return "Recommended: none, because no engine that passes was measured for speed", commands.benchmark
    if gate_failed(report["variants"]):
        gate = percent(report["gate"][words.gate])
        return (
            f"Recommended: none, because no engine keeps {gate} of FP32's {words.score_name}. Add fp16 or fp32 to `precisions` "
            "in the recipe, or raise `calibrate.images`, then run it again",
            commands.rerun,
        )
    if "error" in found:
        return "Recommended: none, because no engine ran to its end here: the reasons say what failed", commands.doctor
    return "Recommended: none, because no engine ran here. See what each backend needs", commands.doctor


def _export_way(export: dict[str, Any]) -> list[str]:
    """How the network became a graph, where it was not the usual way; reports of older runs do not say it."""
    failed = export.get("ways_failed", {})
    if not failed:
        return []
    return [f"Export: by {export['way_text']}, which computes the same as PyTorch, because others failed: "
            f"{'; '.join(failed.values())}."]  # fmt: skip


def how_measured(
    report: dict[str, Any], reference: dict[str, Any], mode: dict[str, Any], commands: Commands | None = None
) -> list[str]:
    """Sentences on how accuracy and speed were measured, and how to do it again."""
    words = words_of(report)
    dataset, share = report["dataset"], report["gate"][words.gate]
    told = ("threads", "warmup", "rounds", "calls", "timed_seconds_at_most")
    more = {key: value for key, value in mode.items() if key not in told}
    limit = f" or as many as fit into {mode[told[-1]]:g} s," if told[-1] in mode else ""
    details = "".join(f"; {key.replace('_', ' ')}: {value}" for key, value in more.items())
    return [
        *_export_way(report.get("export", {})),
        f"Accuracy: every engine and {reference['name']} saw the same {counted(dataset['eval_images'], 'image')} of "
        f"{dataset['name']}, through one preprocessing (sha256 {report['preprocess_sha256'][:12]}…). The interval is a "
        f"paired bootstrap, 95 %. {TEXTS[words.task].counted}",
        f"Gate: {words.score_name} of at least {percent(share)} of {reference['name']}'s, here "
        f"{number(reference[words.score] * share)} %. What fails it is shown, never recommended.",
        f"Calibration of the INT8 engines: {counted(dataset['calibration_images'], 'calibration image')}; the calibrate "
        "stage's audit says where they are from.",
        f"Speed: {mode['rounds']} rounds of {mode['calls']} calls for each engine and batch size,{limit} engines taking "
        f"turns, after {mode['warmup']} warm-up calls, {mode['threads']} threads{details}. Latency is that of batch 1.",
        f"To reproduce: {(commands or host_commands(report['run'])).again}.",
    ]
