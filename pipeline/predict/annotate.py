"""Write the predicted classes onto an image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Image
from pipeline.predict.prediction import Guess

MIN_SIDE = 240  # pixels: smaller images are enlarged, because no text would fit
MAX_SIDE = 4000  # pixels: a strip of an image is not enlarged beyond
_LINE = 0.075  # height of a line of text over the image's shorter side
INK, PAPER = (255, 255, 255), (40, 40, 40)  # BGR


def annotate(image: Image, top: tuple[Guess, ...]) -> NDArray[np.uint8]:
    """A BGR copy (bar + H, W, 3) of an RGB image, enlarged if it is tiny, under a bar with a line of text for each of `top`."""
    import cv2

    picture = enlarge(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    texts = [f"{guess.label} {100 * guess.probability:.1f} %" for guess in top]
    height, width = picture.shape[:2]
    line = max(14, round(_LINE * min(height, width)))
    scale = line / 30  # Hershey letters of scale 1 are about 22 pixels high
    widest = max((cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for text in texts), default=0)
    scale *= min(1.0, 0.96 * width / max(1, widest))
    bar = line * len(texts) + line // 3 if texts else 0
    picture = cv2.copyMakeBorder(picture, bar, 0, 0, 0, cv2.BORDER_CONSTANT, value=PAPER)
    for row, text in enumerate(texts):
        place = (line // 4, (row + 1) * line - line // 8)
        cv2.putText(
            picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, max(1, line // 16), cv2.LINE_AA
        )  # fmt: skip
    return np.asarray(picture, dtype=np.uint8)


def enlarge(picture: Any) -> NDArray[np.uint8]:
    """A uint8 picture (H, W) or (H, W, 3) with every pixel repeated until no side is under `MIN_SIDE`, or one over `MAX_SIDE`."""
    sides = picture.shape[:2]
    factor = min(-(-MIN_SIDE // max(1, min(sides))), max(1, MAX_SIDE // max(1, *sides)))  # the first rounded up
    return np.asarray(picture.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else picture, dtype=np.uint8)
