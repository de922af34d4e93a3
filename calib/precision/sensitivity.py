"""Sensitivity: what quantizing one layer, or one group of layers, alone does to the logits. docs/sensitivity.md explains it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.precision.policy import Decision, Layer
from calib.precision.smoothing import logits_distance

Logits = NDArray[np.float32]
NOT_FINITE = "quantized alone, it makes the logits NaN or Inf"


@dataclass(frozen=True)
class Effect:
    """How far quantized logits are from FP32's: mean KL divergence in nats, SNR in dB, agreement in percent.

    `kl` is None where the quantized logits are not finite, `snr_db` also where nothing changed at all.
    """

    kl: float | None
    snr_db: float | None
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """As in `sensitivity.json`."""
        return {"kl": self.kl, "snr_db": self.snr_db, "agreement": self.agreement}


def measure_effect(reference: Logits, logits: Logits) -> Effect:
    """Compare quantized `logits` (images, classes) with FP32's `reference`; of (images, classes, H, W) every pixel is an image.

    KL is that of softmax(reference) from softmax(logits), the mean over images; the signal of the SNR is the mean square
    of `reference`; agreement counts images with the same largest logit. ValueError where shapes differ.
    """
    distance = logits_distance(reference, logits)
    same = 100 * float(np.mean(reference.argmax(axis=1) == logits.argmax(axis=1)))
    kl = max(distance.kl, 0.0)  # rounding makes it a hair negative where the logits are nearly the same
    return Effect(kl if np.isfinite(kl) else None, distance.snr_db if np.isfinite(distance.snr_db) else None, same)


def alone(layer: Layer) -> Decision:
    """The layer with Q/DQ of its own: both operands of a product, an attention's output too, the skip input of a sum."""
    if layer.role == "residual":
        return Decision(layer, "alone", (layer.skip,))
    return Decision(layer, "alone", (0, 1), output=layer.role == "context")


def group_of(layer: Layer) -> str:
    """The module path with each number replaced by *, and the role: `blocks.*.attn (scores)`; a node without one is alone."""
    path = re.sub(r"(?<![^.])\d+(?![^.])", "*", layer.module or layer.name)
    return f"{path} ({layer.role})" if layer.role else path


def make_groups(decisions: Iterable[Decision]) -> dict[str, list[Decision]]:
    """Decisions by group, in the order of the graph."""
    groups: dict[str, list[Decision]] = {}
    for decision in decisions:
        groups.setdefault(group_of(decision.layer), []).append(decision)
    return groups


def fingerprint(values: Mapping[str, Any]) -> str:
    """A sha256 of what a result depends on."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def summarise(
    decisions: Sequence[Decision], layers: Mapping[str, Effect], groups: Mapping[str, Effect]
) -> dict[str, Any]:
    """The rows of `sensitivity.json`: `layers` (effects by node) and `groups`, and what has no measure, with the reason.

    A decision without Q/DQ was left out for its own reason.
    """
    rows: dict[str, list[dict[str, Any]]] = {"layers": [], "groups": [], "left_out": [], "groups_left_out": []}
    for decision in decisions:
        row = _layer_row(decision.layer)
        if not decision.int8:
            rows["left_out"].append(row | {"reason": decision.reason})
        else:
            _sort_in(rows, "layers", "left_out", row, layers[decision.layer.name])
    for name, members in make_groups(decision for decision in decisions if decision.int8).items():
        row = {"group": name, "nodes": [decision.layer.name for decision in members]}
        _sort_in(rows, "groups", "groups_left_out", row, groups[name])
    return rows


def _layer_row(layer: Layer) -> dict[str, Any]:
    return {
        "node": layer.name, "module": layer.module, "role": layer.role, "operator": layer.operator,
        "group": group_of(layer),
    }  # fmt: skip


def _sort_in(
    rows: dict[str, list[dict[str, Any]]], measured: str, left_out: str, row: dict[str, Any], effect: Effect
) -> None:
    if effect.kl is None:
        rows[left_out].append(row | {"reason": NOT_FINITE})
    else:
        rows[measured].append(row | effect.to_dict())
