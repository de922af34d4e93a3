"""Write the predicted classes onto an image."""

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Image
from pipeline.predict.predict import Guess

MIN_SIDE = 240  # pixels: smaller images are enlarged, because no text would fit
_LINE = 0.075  # height of a line of text over the image's shorter side
_INK, _PAPER = (255, 255, 255), (40, 40, 40)  # BGR


def annotate(image: Image, top: tuple[Guess, ...]) -> NDArray[np.uint8]:
    """A BGR copy (bar + H, W, 3) of an RGB image, enlarged if it is tiny, under a bar with a line of text for each of `top`."""
    import cv2

    factor = -(-MIN_SIDE // max(1, min(image.shape[:2])))  # rounded up
    picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if factor > 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    texts = [f"{guess.label} {100 * guess.probability:.1f} %" for guess in top]
    height, width = picture.shape[:2]
    line = max(14, round(_LINE * min(height, width)))
    scale = line / 30  # Hershey letters of scale 1 are about 22 pixels high
    widest = max((cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for text in texts), default=0)
    scale *= min(1.0, 0.96 * width / max(1, widest))
    bar = line * len(texts) + line // 3 if texts else 0
    picture = cv2.copyMakeBorder(picture, bar, 0, 0, 0, cv2.BORDER_CONSTANT, value=_PAPER)
    for row, text in enumerate(texts):
        place = (line // 4, (row + 1) * line - line // 8)
        cv2.putText(
            picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, max(1, line // 16), cv2.LINE_AA
        )  # fmt: skip
    return np.asarray(picture, dtype=np.uint8)
