"""The classes' colours over a photograph, with a legend."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Image
from pipeline.predict.annotate import INK, PAPER, enlarge
from pipeline.tasks.colours import PALETTE
from pipeline.tasks.pixels import NO_CLASS, Map

_LINE = 0.05  # height of a line of the legend over the image's shorter side
_TALLEST, _WIDEST = 0.6, 0.5  # of the image: the most that the legend takes


def overlay(image: Image, classes: Map, legend: Sequence[tuple[int, str]]) -> NDArray[np.uint8]:
    """A BGR copy (H, W, 3) of an RGB image, enlarged if it is tiny, under the half transparent colours of `classes` (H, W).

    Pixels of `NO_CLASS` stay as they are. `legend` has index and name of the classes that are there, the largest first; where not
    all have room, the smallest are counted instead.
    """
    import cv2

    photo, found = enlarge(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)), enlarge(classes)
    colours = np.vstack([PALETTE, PALETTE[:1]])[found][..., ::-1]
    mixed = cv2.addWeighted(photo, 0.5, np.ascontiguousarray(colours), 0.5, 0)
    picture = np.where((found == NO_CLASS)[..., np.newaxis], photo, mixed)
    _draw_legend(picture, legend)
    return np.asarray(picture, dtype=np.uint8)


def _draw_legend(picture: NDArray[np.uint8], legend: Sequence[tuple[int, str]]) -> None:
    """Into the upper left corner of a BGR picture: in the order of the classes, so that a video's legend stays in place."""
    import cv2

    if not legend:
        return
    height, width = picture.shape[:2]
    line = max(12, round(_LINE * min(height, width)))
    room = max(2, int(_TALLEST * height / line))
    shown = sorted(legend if len(legend) <= room else legend[: room - 1])
    texts = [name for _, name in shown] + [f"+ {len(legend) - len(shown)} more"] * (len(shown) < len(legend))
    scale, font = line / 30, cv2.FONT_HERSHEY_SIMPLEX  # letters of scale 1 are about 22 pixels high
    widest = max((cv2.getTextSize(text, font, scale, 1)[0][0] for text in texts), default=0)
    most = round(_WIDEST * width) - 2 * line
    scale *= min(1.0, most / max(1, widest))
    box = picture[: line * len(texts) + line // 2, : min(widest, most) + 2 * line]
    box[:] = (box // 4 + np.array(PAPER, dtype=np.uint8) // 4 * 3).astype(np.uint8)
    for row, text in enumerate(texts):
        top, bottom = row * line + line // 4 + line // 8, (row + 1) * line + line // 4 - line // 8
        if row < len(shown):
            corners = (line // 4, top), (line // 4 + bottom - top, bottom)
            cv2.rectangle(picture, *corners, PALETTE[shown[row][0]][::-1].tolist(), cv2.FILLED)
            cv2.rectangle(picture, *corners, INK, 1)
        place = (line // 2 + line, bottom - line // 8)
        cv2.putText(picture, text, place, font, scale, INK, max(1, line // 16), cv2.LINE_AA)
