"""What was measured, in Markdown: a table for each network, and a line for each backend and batch size on who is fastest."""

from typing import Any

from bench.peers.graphs import LABELS, LITERAL, NNCF, OURS, OURS_FP32, PEERS
from bench.peers.measure import BACKENDS, Row

MISSING = "–"
GATE = 0.99  # of FP32's top-1, as `gate.min_relative_top1`


def network_text(name: str, result: dict[str, Any]) -> str:
    """Heading, table and verdicts of one network."""
    of = result["settings"]
    facts = [result["told"], of["cpu"], f"{of['threads']} threads", f"{of['rounds']} rounds of {of['calls']} calls"]
    lines = [f"### {name}\n", f"{'; '.join(facts)}; made by `make bench`.\n", *table(result["rows"], of["batches"]), ""]
    for backend in BACKENDS:
        for batch in of["batches"]:
            told = verdict(result["rows"][backend], str(batch))
            lines.append(f"- {BACKENDS[backend]}, batch {batch}: {told}")
    return "\n".join(lines) + "\n"


def table(backends: dict[str, dict[str, Row]], batches: list[int]) -> list[str]:
    """A line for each row that there is something to say of."""
    rows = [row for of in backends.values() for row in of.values()]
    head = ["engine", "graph", "INT8 layers"]
    for batch in batches:
        head += [f"b{batch}: ms", f"b{batch}: × FP32 (quartiles)"]
    head += [title for key, title in (("top1", "top-1"), ("agreement", "agreement")) if any(key in row for row in rows)]
    lines = ["| " + " | ".join([*head, "SNR dB"]) + " |", "|---" * (len(head) + 1) + "|"]
    for backend, of in backends.items():
        for label in LABELS:
            if left_out(label, of[label]):
                continue
            cells = [BACKENDS[backend], label, *_cells(of[label], batches, head)]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def left_out(label: str, row: Row) -> bool:
    """A network without a literal form has no row for it, and ONNX Runtime none for NNCF on OpenVINO's form."""
    return label in (LITERAL, NNCF) and "unavailable" in row and "pip install" not in row["unavailable"]


def _cells(row: Row, batches: list[int], head: list[str]) -> list[str]:
    for state in ("unavailable", "error"):
        if state in row:
            reason = row[state].replace("|", "\\|")
            told = f"unavailable: {reason}" if state == "unavailable" else reason
            return [told, *[MISSING] * (len(head) - 2)]
    layers = row["layers"]
    cells = [f"{layers['int8']} of {sum(layers.values())}" if layers else MISSING]
    for batch in batches:
        speed = row["speeds"][str(batch)]
        low, middle, high = speed["to_fp32"]
        cells += [f"{speed['ms']:.2f}", f"{middle:.2f} ({low:.2f}–{high:.2f})"]
    if "top-1" in head:
        cells.append(_number(row.get("top1"), 2))
    if "agreement" in head:
        cells.append(_number(row.get("agreement"), 2))
    return [*cells, _number(row["snr_db"], 1) if row["finite"] else "NaN"]


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def wrong(row: Row) -> str:
    """Why a graph's speed counts for nothing: it does not compute the network; "" where it does."""
    if not row["finite"]:
        return "its logits are not finite"
    if row["snr_db"] is not None and row["snr_db"] <= 0:
        return f"its logits are others, {row['snr_db']:.1f} dB"
    if "top1" in row and row["top1"] < GATE * row["fp32_top1"]:
        return f"top-1 {row['top1']:.2f}, FP32 {row['fp32_top1']:.2f}"
    return ""


def verdict(rows: dict[str, Row], batch: str) -> str:
    """Whether our INT8 graph is the fastest of those that compute the network, and how close its logits are, in one line."""
    ours = rows[OURS]
    if "speeds" not in ours:
        return f"ours does not run: {ours.get('error', ours.get('unavailable'))}"
    measured = {label: rows[label] for label in PEERS if "speeds" in rows[label]}
    right = {label: row for label, row in measured.items() if not wrong(row)}
    parts = [f"ours is wrong: {wrong(ours)}"] if wrong(ours) else []
    parts += [_standing(ours, right, batch), *_closest(ours, right)]
    for label, row in measured.items():
        if label not in right and row["speeds"][batch]["to_ours"][1] > 1:
            parts.append(f"{label} is faster and wrong: {wrong(row)}")
    if "speeds" in rows[OURS_FP32] and rows[OURS_FP32]["speeds"][batch]["to_ours"][0] > 1:
        parts.append("slower than its own FP32")
    return "; ".join(parts)


def _standing(ours: Row, right: dict[str, Row], batch: str) -> str:
    """`slower` and `fastest` only where the quartiles over rounds say so."""
    own = ours["speeds"][batch]["to_fp32"][1]
    if not right:
        return f"{own:.2f}×, no other tool's graph computes the network"
    label = max(right, key=lambda name: right[name]["speeds"][batch]["to_ours"][1])
    speed, (low, _, high) = right[label]["speeds"][batch]["to_fp32"][1], right[label]["speeds"][batch]["to_ours"]
    against = f"{own:.2f}× against {speed:.2f}×, {_close(ours)} against {_close(right[label], named=False)}"
    if low > 1 and speed > own:
        others = sum(row["speeds"][batch]["to_ours"][0] > 1 for row in right.values()) - 1
        return f"slower than {label}{f' and {others} more' if others else ''}: {against}"
    if high >= 1:
        return f"as fast as {label}: {against}"
    return f"ours is the fastest of {len(right) + 1}: {own:.2f}×, then {label} {speed:.2f}×; {_close(ours)}"


def _close(row: Row, *, named: bool = True) -> str:
    if "agreement" in row:
        return f"{'agreement ' if named else ''}{row['agreement']:.2f} %"
    return f"{'SNR ' if named else ''}{_number(row['snr_db'], 1)} dB"


def _closest(ours: Row, right: dict[str, Row]) -> list[str]:
    """Says so where another tool's graph agrees with FP32 more often than ours."""
    closer = [label for label, row in right.items() if row.get("agreement", 0) > ours.get("agreement", 0)]
    if not closer:
        return []
    label = max(closer, key=lambda name: right[name]["agreement"])
    return [f"{label} agrees more often: {right[label]['agreement']:.2f} %"]
