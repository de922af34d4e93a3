"""The tables of docs/gpu.md, from the rows of results/gpu-*.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.gpu_parts.roofline import datasheet, least_seconds

NOTHING = "No GPU has run this yet."
NO_GPU = "Measured on a CPU, with small networks: it shows that the command works, and says nothing of a GPU."
FORWARD_HEADS = (
    "network", "batch", "computed in", "ms", "images/s", "× FP32 (quartiles)", "agreement %", "SNR dB", "% of datasheet",
    "% of reached", "MiB",
)  # fmt: skip
TRAINING_HEADS = (
    "network", "batch", "torch.compile", "form", "images/s", "× literal (quartiles)", "peak MiB", "× literal",
)  # fmt: skip
KINDS = ("ceiling", "forward", "training")
FORMS = {"literal": "literal unfold", "ours": "convolution"}
CEILINGS = {"float32": "FP32", "tf32": "TF32", "half": "FP16", "int8": "INT8", "bytes": "copy"}
FASTER, LESS_MEMORY, FORWARD_FASTER = 1.5, 0.7, 4.0  # the targets
Row = Mapping[str, Any]
Kept = Mapping[str, Row]


def tables(machines: Iterable[Kept]) -> str:
    """Markdown: for each machine its ceilings, forward passes, training, TensorRT-RTX, what failed, and the targets."""
    return "\n\n".join(_machine(kept) for kept in machines if kept) or NOTHING


def part_in_words(row: Row) -> str:
    """One line, for the terminal."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    if row["kind"] == "ceiling":
        return ", ".join(_ceilings(row))
    if row["kind"] == "tensorrt_rtx":
        return "TensorRT-RTX loads" if row["loads"] else f"TensorRT-RTX does not load: {row['reason']}"
    rows = row["variants"] if row["kind"] == "forward" else row["forms"]
    return ", ".join(f"{name} {of['ms']:.2f} ms" if "ms" in of else f"{name} –" for name, of in rows.items())


def _machine(kept: Kept) -> str:
    first = next(iter(kept.values()))["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    lines = [f"### {first['gpu'] or first['cpu']}", "", f"{versions}; the processor is {first['cpu']}."]
    if first["gpu"] is None:
        lines += ["", NO_GPU]
    by_kind = {kind: [row for row in kept.values() if row["kind"] == kind] for kind in KINDS}
    peaks = _peaks(kept, first["gpu"])
    lines += [line for row in by_kind["ceiling"] for line in ("", f"Reached: {', '.join(_ceilings(row))}.")]
    if by_kind["forward"]:
        lines += ["", *_table(FORWARD_HEADS, 3, _forward(by_kind["forward"], peaks)), "", *_int8(by_kind["forward"])]
    if by_kind["training"]:
        lines += ["", *_table(TRAINING_HEADS, 4, _training(by_kind["training"]))]
    lines += ["", *_notes(kept)]
    return "\n".join(lines + (["", *_targets(by_kind)] if first["gpu"] else []))


def _table(heads: Sequence[str], left: int, rows: Iterable[Sequence[str]]) -> list[str]:
    """The first `left` columns are text."""
    rule = "|" + "---|" * left + "--:|" * (len(heads) - left)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _peaks(kept: Kept, gpu: str | None) -> tuple[Mapping[str, float | None] | None, ...]:
    """The datasheet's, and what was reached here; a CPU has neither."""
    return (datasheet(gpu), kept.get("ceiling", {}).get("peak")) if gpu else (None, None)


def _ceilings(row: Row) -> list[str]:
    units = {"bytes": "TB/s"}
    return [
        f"{title} {row['peak'][kind]:g} {units.get(kind, 'TFLOP/s' if kind != 'int8' else 'TOP/s')}"
        for kind, title in CEILINGS.items()
        if "peak" in row and row["peak"][kind] is not None
    ]


def _forward(parts: Iterable[Row], peaks: Sequence[Mapping[str, float | None] | None]) -> Iterable[list[str]]:
    for part in parts:
        for name, of in part.get("variants", {}).items():
            if "ms" not in of:
                continue
            work = part["work"].get({"tf32": "fp32"}.get(name.split()[0], name.split()[0]))
            bounds = [work and least_seconds(work, peak, tf32=name != "fp32") for peak in peaks]
            yield [
                f"`{part['network']}`", str(part["batch"]), _title(name), f"{of['ms']:.3f}", f"{of['images_per_s']:.0f}",
                _spread(of["speed"]), f"{of['agreement']:.1f}", "–" if of["snr_db"] is None else f"{of['snr_db']:.1f}",
                *("–" if bound is None else f"{100 * bound / (of['ms'] / 1e3):.1f}" for bound in bounds),
                "–" if of["call_mib"] is None else f"{of['weights_mib'] + of['call_mib']:.0f}",
            ]  # fmt: skip


def _title(name: str) -> str:
    precision, *rest = name.split()
    return ", ".join([precision.upper(), *("CUDA graph" if word == "graph" else word for word in rest)])


def _spread(speed: Sequence[float] | None) -> str:
    return "–" if speed is None else f"{speed[1]:.2f} ({speed[0]:.2f} to {speed[2]:.2f})"


def _int8(parts: Iterable[Row]) -> list[str]:
    """Which layers are in INT8, by network: once where it is the same at every batch."""
    found: dict[str, None] = {}
    for part in parts:
        if layers := part.get("int8_layers"):
            reasons = "; ".join(f"{reason} ({count})" for reason, count in layers["left_out"].items())
            found[f"INT8 in `{part['network']}`: {layers['int8']} of {layers['layers']} layers. Not: {reasons}."] = None
    return list(found)


def _training(parts: Iterable[Row]) -> Iterable[list[str]]:
    for part in parts:
        rows = part.get("forms", {})
        for form, of in rows.items():
            if "ms" not in of:
                continue
            peak = of["peak_mib"]
            yield [
                f"`{part['network']}`", str(part["batch"]), "on" if part["compiled"] else "off", FORMS[form],
                f"{of['images_per_s']:.1f}", _spread(of["speed"]), "–" if peak is None else f"{peak:.0f}", _less(rows, form),
            ]  # fmt: skip


def _less(rows: Mapping[str, Row], form: str) -> str:
    ratio = _memory_ratio(rows, form)
    return "–" if ratio is None else f"{ratio:.2f}"


def _memory_ratio(rows: Mapping[str, Row], form: str) -> float | None:
    own, literal = (rows.get(name, {}).get("peak_mib") for name in (form, "literal"))
    return own / literal if own and literal else None


def _notes(kept: Kept) -> list[str]:
    """TensorRT-RTX, and everything that failed or that this machine does not have."""
    lines = []
    for name, row in kept.items():
        if row["kind"] == "tensorrt_rtx" and "failed" not in row:
            said = "loads and computes" if row["loads"] else f"does not run: {row['reason']}"
            lines.append(f"- TensorRT-RTX {row['version'] or ''} {said}".replace("  ", " "))
        rows = {name: row} | {f"{name}, {of}": values for of, values in _inner(row).items()}
        lines += [f"- {of} failed: {values['failed']}" for of, values in rows.items() if "failed" in values]
        lines += [f"- {name}: no ceiling of {kind}: {reason}" for kind, reason in row.get("reasons", {}).items()]
        lines += [f"- {name}: {of} was not counted: {why}" for of, why in row.get("work_failed", {}).items()]
    absent = {(of, v["unavailable"]) for row in kept.values() for of, v in _inner(row).items() if "unavailable" in v}
    return lines + [f"- {of}: {reason}" for of, reason in sorted(absent)]


def _inner(row: Row) -> Mapping[str, Row]:
    return row.get("variants") or row.get("forms") or {}


def _targets(by_kind: Mapping[str, Sequence[Row]]) -> list[str]:
    """Each target with what was measured, at its best."""
    forms = [part["forms"] for part in by_kind["training"] if "forms" in part]
    speeds = [rows["ours"]["speed"][1] for rows in forms if rows.get("ours", {}).get("speed")]
    memory = [ratio for rows in forms if (ratio := _memory_ratio(rows, "ours")) is not None]
    lines = [
        _target(f"training at {FASTER}× the images/s of the literal form", max(speeds, default=None), FASTER),
        _target(f"training at {LESS_MEMORY}× its memory", min(memory, default=None), LESS_MEMORY, below=True),
    ]
    for network in dict.fromkeys(part["network"] for part in by_kind["forward"] if part["batch"] > 1):
        found = [
            of["speed"][1]
            for part in by_kind["forward"]
            if part["network"] == network and part["batch"] > 1
            for name, of in part.get("variants", {}).items()
            if of.get("speed") and name.startswith(("fp16", "int8"))
        ]
        what = f"`{network}` in FP16 or INT8 at {FORWARD_FASTER:g}× FP32 eager, batch 64"
        lines.append(_target(what, max(found, default=None), FORWARD_FASTER))
    return lines


def _target(what: str, best: float | None, wanted: float, below: bool = False) -> str:
    if best is None:
        return f"- Target, {what}: not measured."
    reached = best <= wanted if below else best >= wanted
    return f"- Target, {what}: {'reached' if reached else '**missed**'}, {best:.2f}×."
