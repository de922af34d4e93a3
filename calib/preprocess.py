"""One preprocessing spec and the one function that applies it, in training, calibration, evaluation and prediction.

Needs numpy and OpenCV only, so that a device runs the very same code. Normalisation (mean, std) is part of the spec
but is done inside the network's graph: what leaves this file is uint8. Masks (a class index for each pixel) go through the same
geometry.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]  # (H, W): a class index for each pixel
GREY = "grey"
# Red, green and blue in a grey level (ITU-R BT.601): Pillow's and OpenCV's, but not rounded to whole levels.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side to `size / crop_pct`, crop the centre, hand on RGB; `mean` and `std` are for 0–1 values.

    They have a value for each channel of the network: three, or one where `colour` is grey. Images are RGB all the same: the
    network's graph makes them grey.
    """

    height: int
    width: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour: str = "RGB"

    @property
    def grey(self) -> bool:
        """Whether the network takes one channel."""
        return self.colour == GREY

    @property
    def channels(self) -> int:
        """What the network takes: 3, or 1 where it is grey."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocess":
        """Read what `to_dict` wrote; unknown or missing keys are an InputError."""
        try:
            plain: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
            }
            return cls(**plain)
        except TypeError as error:
            raise InputError("the preprocessing spec cannot be read", got=values, allowed=str(error)) from error

    def sha256(self) -> str:
        """Hash of the spec: what checkpoint, calibration set, ONNX and engine must agree on."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def opencv_version() -> str:
    """Of the OpenCV that decodes and resizes here. Raises ImportError, with the reason, where it cannot be loaded."""
    import cv2

    return str(cv2.__version__)


def load_image(path: Path) -> Image:
    """Read an image file as RGB uint8, shape (H, W, 3); grey becomes three equal channels, EXIF rotation is applied."""
    return decode_image(read_bytes(path), path)


def decode_image(data: NDArray[np.uint8], path: Path) -> Image:
    """The image in a file's bytes, shape (n,), as `load_image` gives it; `path` is what the InputError names."""
    import cv2

    found, image = f"{path} ({data.size} bytes)", None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:  # such as above OpenCV's limit of pixels, which a damaged head may promise
        found += f", OpenCV: {getattr(error, 'err', '') or error}"
    if image is None:
        raise _undecodable(found, f"replace or delete it: rm '{path}'")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode_levels(data: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The levels (H, W) of a grey image file's bytes (n,) as they are stored; None where it is damaged or not of 8 bits."""
    import cv2

    try:
        levels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:  # such as above OpenCV's limit of pixels
        return None
    fits = levels is not None and levels.ndim == 2 and levels.dtype == np.uint8
    return np.asarray(levels, dtype=np.uint8) if fits else None


def read_bytes(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, shape (n,); InputError where it is missing or the system does not let it be read."""
    try:
        if path.is_file():
            return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise _undecodable(
            f"{path}: {error.strerror or error}", f"let it be read, or move it: ls -l '{path}'"
        ) from error
    raise InputError("no such image", got=path, next_step="check the path")


def _undecodable(found: str, next_step: str) -> InputError:
    """One message for every reason, so that a caller that skips such images needs to know one."""
    return InputError("this image cannot be decoded", got=found, allowed=", ".join(IMAGE_SUFFIXES), next_step=next_step)


def resize(image: Image, height: int, width: int, interpolation: str) -> Image:
    """Resize (H, W, 3) uint8. OpenCV's bicubic and bilinear do not average when shrinking, which aliases: area does."""
    import cv2

    if (height, width) == image.shape[:2]:
        return image
    if height < image.shape[0] and width < image.shape[1]:
        method = cv2.INTER_AREA
    else:
        method = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[interpolation]
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """Resize (H, W) uint8 indices: each pixel takes the one that its centre lies in, so that none is made up."""
    import cv2

    if (height, width) == mask.shape:
        return mask
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def preprocess(image: Image, spec: Preprocess) -> Image:
    """Resize and centre-crop an RGB uint8 image (H, W, 3) to (spec.height, spec.width, 3), contiguous."""
    height, width = _resized(image, spec)
    return _crop(resize(image, height, width, spec.interpolation), spec)


def preprocess_mask(mask: Mask, spec: Preprocess) -> Mask:
    """The mask (H, W) of an image, to (spec.height, spec.width) as `preprocess` takes its image there."""
    return _crop(resize_mask(mask, *_resized(mask, spec)), spec)


def restore_mask(mask: Mask, height: int, width: int, spec: Preprocess, outside: int) -> Mask:
    """A mask of what `preprocess` made of an image (spec.height, spec.width), on the image itself (height, width).

    Each of the image's pixels takes the index that its centre was seen as; what the crop cut off is `outside`.
    """
    resized = _resized_to(height, width, spec)
    rows, columns = (
        (2 * np.arange(before) + 1) * after // (2 * before) - (after - kept) // 2
        for before, after, kept in zip((height, width), resized, (spec.height, spec.width), strict=True)
    )
    seen_rows, seen_columns = (rows >= 0) & (rows < spec.height), (columns >= 0) & (columns < spec.width)
    restored = np.full((height, width), outside, dtype=np.uint8)
    restored[np.ix_(seen_rows, seen_columns)] = mask[np.ix_(rows[seen_rows], columns[seen_columns])]
    return restored


def _resized(image: NDArray[np.uint8], spec: Preprocess) -> tuple[int, int]:
    """Height and width before the crop."""
    return _resized_to(image.shape[0], image.shape[1], spec)


def _resized_to(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    scale = max(spec.height / spec.crop_pct / height, spec.width / spec.crop_pct / width)
    return max(spec.height, round(height * scale)), max(spec.width, round(width * scale))


def _crop(image: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """The centre, contiguous."""
    top, left = (image.shape[0] - spec.height) // 2, (image.shape[1] - spec.width) // 2
    return np.ascontiguousarray(image[top : top + spec.height, left : left + spec.width])


def load_batch(paths: list[Path], spec: Preprocess) -> Image:
    """Load and preprocess images into one uint8 array, shape (N, H, W, 3)."""
    return np.stack([preprocess(load_image(path), spec) for path in paths])
