"""Strips of pictures of the images whose class maps an engine changes most: photograph, mask, FP32's map, the engine's, and
where these differ."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.images import ImageSplit
from calib.preprocess import Preprocess, load_batch
from pipeline.report.page.pixels import Strip, Strips
from pipeline.report.thumbnails import encode, shrink
from pipeline.report.values.details import Answers
from pipeline.tasks.colours import colour_map, hex_colour
from pipeline.tasks.pixels import NO_CLASS, Map

_LARGEST = 320  # pixels of the longer side
_DIFFERS, _SAME = (208, 0, 111), (243, 244, 246)  # the accent, and what is behind it; as in segmentation.css


def strips(report: dict[str, Any], answers: Answers, split: ImageSplit, spec: Preprocess) -> Strips | None:
    """The pictures of one engine (`strip_engine`); None where every engine gives every pixel FP32's class."""
    engine = strip_engine(report)
    if engine is None:
        return None
    names = [row["image"] for row in engine["comparison"]["images"]]
    chosen = [split.names.index(name) for name in names]
    maps = np.stack([of[chosen] for of in (answers.labels, answers.reference, answers.engines[engine["name"]])])
    photos = load_batch([split.paths[index] for index in chosen], spec)
    there = np.unique(maps)
    return Strips(
        engine["name"],
        tuple(Strip(name, _pictures(photos[row], *maps[:, row])) for row, name in enumerate(names)),
        tuple((split.classes[index], hex_colour(index)) for index in there.tolist() if index != NO_CLASS),
        bool(NO_CLASS in there),
    )  # fmt: skip


def strip_engine(report: dict[str, Any]) -> dict[str, Any] | None:
    """The engine to show, of those that change a pixel: the recommended one if it is INT8, else the first INT8 one that passes,
    else the first."""
    chosen = (report["recommended"] or {}).get("name")
    changing = [v for v in report["variants"] if "comparison" in v and v["comparison"]["images"]]
    ranks = [
        (not (_is_int8(v) and v["name"] == chosen), not (_is_int8(v) and v["status"] == "pass"), index)
        for index, v in enumerate(changing)
    ]
    return changing[min(ranks)[-1]] if ranks else None


def _is_int8(variant: dict[str, Any]) -> bool:
    """By its precision or, of a mixed one, by the layers that the engine runs in INT8."""
    return "int8" in variant["precision"] or bool((variant["layers"] or {}).get("int8"))


def _pictures(
    photo: NDArray[np.uint8], mask: Map, reference: Map, ours: Map
) -> tuple[bytes, bytes, bytes, bytes, bytes]:  # fmt: skip
    """PNGs of an image (H, W, 3) and its maps (H, W), made smaller by a whole factor where they are large."""
    factor = -(-max(photo.shape[:2]) // _LARGEST)
    truth, before, after = colour_map(np.stack([_thin(of, factor) for of in (mask, reference, ours)]))
    differ = _squares(ours != reference, factor).any(axis=(1, 3))  # a thin line stays
    differing = np.where(np.asarray(differ)[..., None], _DIFFERS, _SAME).astype(np.uint8)
    return encode(shrink(photo, _LARGEST)), encode(truth), encode(before), encode(after), encode(differing)


def _squares(of: NDArray[Any], factor: int) -> NDArray[Any]:
    """(H, W) → (H / factor, factor, W / factor, factor); edges are cut."""
    height, width = (size // factor for size in of.shape)
    return of[: height * factor, : width * factor].reshape(height, factor, width, factor)


def _thin(of: Map, factor: int) -> Map:
    """The middle pixel of each square: a mean of classes is none."""
    return np.asarray(_squares(of, factor)[:, factor // 2, :, factor // 2])
