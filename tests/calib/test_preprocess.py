"""The one preprocessing function and its spec."""

import errno
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib.errors import InputError
from calib.preprocess import Preprocess, load_image, preprocess, preprocess_mask, resize, restore_mask

SPEC = Preprocess(32, 32, 0.9, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize("shape", [(28, 28), (224, 224), (33, 500), (500, 33), (32, 32), (1, 1), (31, 40)])
def test_any_size_becomes_the_specs(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    made = preprocess(image, SPEC)
    assert made.shape == (32, 32, 3) and made.dtype == np.uint8 and made.flags.c_contiguous


def test_grey_png_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    image = load_image(tmp_path / "a.png")
    assert image.shape == (28, 28, 3) and (image == grey[..., np.newaxis]).all()


def test_colours_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    assert load_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


def test_shrinking_averages() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert abs(int(resize(stripes, 16, 16, "bicubic").mean()) - 100) <= 1
    assert resize(stripes, 16, 16, "bicubic").std() < 2


def test_crop_is_centred() -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[40:60, 40:60] = 255
    made = preprocess(image, Preprocess(20, 20, 0.2, "bilinear", (0.5,) * 3, (0.2,) * 3))
    assert (made == 255).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be decoded"), (b"not an image", "cannot be decoded"), (None, "no such image")],
)
def test_bad_image(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_an_image_above_opencvs_limit_of_pixels(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "large.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="this image cannot be decoded") as caught:
        load_image(path)
    assert str(path) in str(caught.value.got) and "PIXELS" in str(caught.value.got)


def test_an_image_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"image")

    def refused(path: Path, dtype: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(np, "fromfile", refused)  # root, as tests may run, may read everything
    with pytest.raises(InputError, match="this image cannot be decoded") as caught:
        load_image(tmp_path / "a.png")
    assert caught.value.got == f"{tmp_path / 'a.png'}: Permission denied" and "rm" not in str(caught.value.next_step)


def test_a_name_that_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_image(tmp_path / ("a" * 300 + ".png"))


def test_hash_follows_every_field() -> None:
    changed = [
        Preprocess(33, 32, 0.9, "bicubic", SPEC.mean, SPEC.std),
        Preprocess(32, 32, 0.8, "bicubic", SPEC.mean, SPEC.std),
        Preprocess(32, 32, 0.9, "bilinear", SPEC.mean, SPEC.std),
        Preprocess(32, 32, 0.9, "bicubic", (0.5, 0.5, 0.4), SPEC.std),
        Preprocess(32, 32, 0.9, "bicubic", SPEC.mean, SPEC.std, "BGR"),
    ]
    assert len({SPEC.sha256(), *(spec.sha256() for spec in changed)}) == 6
    assert Preprocess.from_dict(SPEC.to_dict()) == SPEC
    with pytest.raises(InputError):
        Preprocess.from_dict(SPEC.to_dict() | {"gamma": 2})


@pytest.mark.parametrize("shape", [(200, 300), (300, 200), (20, 30), (64, 96), (33, 500), (7, 5), (97, 61)])
@pytest.mark.parametrize("crop", [1.0, 0.8])
def test_a_mask_goes_back_to_where_it_was_seen(shape: tuple[int, int], crop: float) -> None:
    """Against each pixel's centre followed through the resize and the crop, in plain floats."""
    spec = Preprocess(24, 40, crop, "bilinear", (0.5,) * 3, (0.2,) * 3)
    mask = np.arange(24 * 40, dtype=np.int64).reshape(24, 40) % 251
    found = restore_mask(mask.astype(np.uint8), *shape, spec, outside=255)
    scale = max(24 / crop / shape[0], 40 / crop / shape[1])
    resized = max(24, round(shape[0] * scale)), max(40, round(shape[1] * scale))
    first = (resized[0] - 24) // 2, (resized[1] - 40) // 2
    for row, column in np.ndindex(*shape):
        at = [
            int((place + 0.5) * resized[side] / shape[side] + 1e-9) - first[side]
            for side, place in enumerate((row, column))
        ]
        seen = 0 <= at[0] < 24 and 0 <= at[1] < 40
        assert found[row, column] == (mask[at[0], at[1]] if seen else 255), (row, column)
    assert (found == 255).any() == (resized != (24, 40) and found.size >= 24 * 40) or crop < 1 or min(shape) < 24


def test_there_and_back_is_the_same_mask() -> None:
    """Where nothing is shrunk: each pixel of the network's image lies in one of the original's."""
    spec = Preprocess(64, 64, 0.8, "bilinear", (0.5,) * 3, (0.2,) * 3)
    mask = np.random.default_rng(0).integers(0, 9, (16, 24), dtype=np.uint8)
    seen = preprocess_mask(mask, spec)
    back = restore_mask(seen, 16, 24, spec, outside=255)
    assert (back[back != 255] == mask[back != 255]).all()
    assert (back != 255).sum() == 12 * 12 and (back[:2] == 255).all() and (back[:, :6] == 255).all()
    assert (restore_mask(preprocess_mask(back, spec), 16, 24, spec, outside=255) == back).all()
