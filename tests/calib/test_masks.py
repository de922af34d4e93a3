"""Images with masks: how they are found, read and brought to the network's size, and what is said of wrong ones."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from calib.audit import UNKNOWN
from calib.calibration import make_calibration_set
from calib.errors import InputError
from calib.images import balanced_subset
from calib.masks import IGNORED, decode_mask, load_masks, missing_classes, read_mask, read_masked_split
from calib.preprocess import Preprocess, load_batch, preprocess, preprocess_mask, resize_mask
from pipeline.console.progress import track
from pipeline.data.look import Look
from pipeline.data.overlap import check_no_overlap
from pipeline.data.remarks import remarks
from pipeline.recipe import Recipe

CLASSES = ("background", "cat", "dog")
HEIGHT, WIDTH = 20, 30
SPEC = Preprocess(16, 12, 0.9, "bilinear", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five train and three val images with masks of all classes, of which pixel (0, 0) is ignored."""
    root, generator = tmp_path / "scenes", np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "masks").mkdir()
        for index in range(count):
            image = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            mask = generator.integers(0, len(CLASSES), (HEIGHT, WIDTH), dtype=np.uint8)
            mask[0, 0] = IGNORED
            Image.fromarray(image).save(root / split / "images" / f"{index}.jpg")
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


def png(pixels: bytes, height: int, width: int, bits: int, colour: int, *extra: tuple[bytes, bytes]) -> np.ndarray:
    """A PNG written by hand, its rows unfiltered and already packed, with `extra` chunks."""
    row = len(pixels) // height
    rows = b"".join(b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return np.frombuffer(b"\x89PNG\r\n\x1a\n" + body, np.uint8)


def test_images_and_masks_are_listed_in_a_fixed_order(root: Path) -> None:
    split = read_masked_split(root, "train")
    assert split.root == root / "train" and split.classes == CLASSES and len(split) == 5
    assert split.names == tuple(f"images/{index}.jpg" for index in range(5))
    assert split.masks == tuple(f"masks/{index}.png" for index in range(5))
    assert split.labels == (UNKNOWN,) * 5 and split.files == split.names + split.masks
    assert split == read_masked_split(root, "train", CLASSES) == read_masked_split(root, "train", may_lack=True)
    taken = split.take([3, 1])
    assert (taken.names, taken.masks) == (("images/3.jpg", "images/1.jpg"), ("masks/3.png", "masks/1.png"))


def test_what_systems_leave_behind_is_no_image_and_no_mask(root: Path) -> None:
    before = read_masked_split(root, "train")
    for name in ("images/._0.jpg", "images/.DS_Store", "images/notes.txt", "masks/._0.png", "masks/Thumbs.db"):
        (root / "train" / name).write_bytes(b"no image")
    (root / "train" / "images" / "@eaDir").mkdir()
    (root / "train" / "masks" / "9.png").write_bytes(b"of an image that is not there")
    after = read_masked_split(root, "train")
    assert (after.names, after.masks) == (before.names, before.masks)
    assert after.left_out == ("images/._0.jpg", "images/@eaDir/", "masks/._0.png")
    (line,) = remarks(after, read_masked_split(root, "val"))
    assert line.startswith("left out") and f"{root}/train/images/@eaDir/" in line


def test_class_names_are_no_folders_and_may_come_from_windows(root: Path) -> None:
    (root / "classes.txt").write_bytes("\ufeffbackground\r\ntraffic sign/light\r\n.dog\r\n\r\n\r\n".encode())
    assert read_masked_split(root, "train").classes == ("background", "traffic sign/light", ".dog")
    (root / "classes.txt").write_text("background\n\ndog\n")
    with pytest.raises(InputError, match="no name: line 2: ''"):
        read_masked_split(root, "train")


def test_draws_are_seeded(root: Path, tmp_path: Path) -> None:
    split = read_masked_split(root, "train")
    assert balanced_subset(split, 3, 0) == balanced_subset(split, 3, 0)
    assert len({tuple(balanced_subset(split, 3, seed)) for seed in range(20)}) > 4
    assert balanced_subset(split, 5, 0) == [0, 1, 2, 3, 4]
    made = make_calibration_set(split, SPEC, 3, 0, tmp_path / "c.npz")
    assert len(made) == 3 and (made.labels == UNKNOWN).all() and made.names[0].startswith("images/")


# --- what a mask's file holds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [np.arange(256, dtype=np.uint8).reshape(16, 16), np.full((5, 3), 255, np.uint8)])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_palettes_indices_are_read_and_not_its_colours(tmp_path: Path, mode: str, indices: np.ndarray) -> None:
    image = Image.fromarray(indices)
    if mode == "P":
        image = Image.fromarray(indices, mode="P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / "m.png", **({"transparency": 0} if mode == "P" else {}))
    with Image.open(tmp_path / "m.png") as stored:
        assert stored.mode == mode
    found = decode_mask(np.fromfile(tmp_path / "m.png", np.uint8), tmp_path / "m.png")
    assert found.dtype == np.uint8 and np.array_equal(found, indices)


@pytest.mark.parametrize("colour", [0, 3], ids=["grey", "palette"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_of_fewer_bits_are_as_they_are_stored(bits: int, colour: int) -> None:
    values = np.arange(2 * 16).reshape(2, 16) % 2**bits
    levels = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    extra = [(b"gAMA", struct.pack(">I", 45455)), (b"sBIT", b"\x01")]
    palette = [(b"PLTE", bytes(range(100, 100 + 3 * min(2**bits, 50)))), (b"tRNS", b"\0")] if colour else extra
    data = png(np.packbits(levels.reshape(2, -1)).tobytes(), 2, 16, bits, colour, *palette)
    assert np.array_equal(decode_mask(data, Path("m.png")), values)


def test_an_interlaced_palette(tmp_path: Path) -> None:
    """Adam7, one pixel: the first pass holds it."""
    data = bytearray(png(b"\x07", 1, 1, 8, 3, (b"PLTE", bytes(24))).tobytes())
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    assert decode_mask(np.frombuffer(bytes(data), np.uint8), Path("m.png")).tolist() == [[7]]


WHOLE = png(bytes(6), 2, 3, 8, 0).tobytes()
BAD_FILES: list[tuple[bytes, str]] = [
    (png(bytes(18), 2, 3, 8, 2).tobytes(), "does not hold a class index.*8 bits, RGB\n"),
    (png(bytes(24), 2, 3, 8, 6).tobytes(), "8 bits, RGB with alpha"),
    (png(bytes(12), 2, 3, 8, 4).tobytes(), "8 bits, grey with alpha"),
    (png(bytes(12), 2, 3, 16, 0).tobytes(), "16 bits, grey"),
    (png(bytes(6), 2, 3, 8, 5).tobytes(), "colour type 5"),
    (b"", "0 bytes, no PNG"),
    (b"\xff\xd8 a JPEG", "no PNG"),
    (WHOLE[:-12], "cut off or changed"),
    (WHOLE[:45] + b"\xff" + WHOLE[46:], "cut off or changed"),
    (png(bytes(2), 2, 3, 3, 0).tobytes(), "pixels cannot be read"),
    (png(bytes(6), 2, 3, 0, 0).tobytes(), "pixels cannot be read"),
    (png(bytes(6), 2, 2**30, 8, 0).tobytes(), "pixels cannot be read"),
]


@pytest.mark.parametrize(("data", "message"), BAD_FILES)
def test_a_file_that_is_no_mask(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        decode_mask(np.frombuffer(data, np.uint8), Path("some/m.png"))
    assert "some/m.png" in str(caught.value)


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(6, 8), (16, 12), (40, 60), (32, 100), (8, 4)])
def test_nearest_takes_the_pixel_that_holds_the_centre(height: int, width: int) -> None:
    """Sizes at which no centre lies on a border between two pixels."""
    mask = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    rows = np.floor((np.arange(height) + 0.5) * HEIGHT / height).astype(int)
    columns = np.floor((np.arange(width) + 0.5) * WIDTH / width).astype(int)
    assert np.array_equal(resize_mask(mask, height, width), mask[rows][:, columns])


@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (131, 57)])
def test_a_mask_stays_on_its_image(size: tuple[int, int], crop: float) -> None:
    """Drawn as an image, the mask's rectangle comes out of the image's preprocessing where it comes out of the mask's."""
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] // 2] = 1
    for side in (24, 96):
        spec = Preprocess(side, side, crop, "bilinear", (0.5,) * 3, (0.5,) * 3)
        drawn = preprocess(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2), spec)[..., 0]
        found = preprocess_mask(mask, spec)
        assert found.shape == (side, side) and set(np.unique(found)) <= {0, 1}
        assert (found[drawn == 255] == 1).all() and (found[drawn == 0] == 0).all()
        assert ((drawn > 127) != (found == 1)).mean() < 0.02


def test_masks_are_loaded_with_their_images(root: Path) -> None:
    split = read_masked_split(root, "train")
    own = Preprocess(HEIGHT, WIDTH, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    masks = load_masks(split, slice(1, 4), own)
    assert masks.dtype == np.uint8 and masks.shape == (3, HEIGHT, WIDTH) and (masks[:, 0, 0] == IGNORED).all()
    for row, index in enumerate(range(1, 4)):
        assert np.array_equal(masks[row], cv2.imread(str(root / "train" / split.masks[index]), cv2.IMREAD_UNCHANGED))
    assert np.array_equal(load_masks(split, [3, 1], own), masks[[2, 0]])
    assert load_masks(split, slice(None), SPEC).shape == load_batch(list(split.paths), SPEC).shape[:3] == (5, 16, 12)
    assert load_masks(split, [], SPEC).shape == (0, 16, 12)
    assert missing_classes(masks, CLASSES) == () and missing_classes(np.where(masks == 1, IGNORED, masks), CLASSES) == (
        "cat",
    )


# --- what is said of wrong ones ---------------------------------------------------------------------------------------


def _save(path: Path, mask: Any) -> None:
    Image.fromarray(np.asarray(mask, np.uint8)).save(path)


Break = Callable[[Path], Any]
BAD_FOLDERS: list[tuple[Break, str]] = [
    (lambda root: shutil.rmtree(root / "train"), r"train images are missing.*classes.txt and .*images/\*"),
    (lambda root: shutil.rmtree(root / "train/images"), "train images are missing.*no folder .*train/images"),
    (lambda root: shutil.rmtree(root / "train/masks"), "train masks are missing.*no folder .*train/masks"),
    (lambda root: [path.unlink() for path in (root / "train/images").iterdir()], "no images in .*5 masks"),
    (lambda root: [(root / f"train/masks/{index}.png").unlink() for index in range(4)], "4 of 5 .*no mask.*0.jpg, .*2.jpg, …"),
    (lambda root: (root / "train/masks/2.png").rename(root / "train/masks/2.jpg"), "1 of 5 .*no mask.*2.jpg.*such as 2.png"),
    (lambda root: shutil.copy(root / "train/images/1.jpg", root / "train/images/1.png"), "one mask.*1.jpg and 1.png"),
    (
        lambda root: shutil.copy(root / "train/masks/1.png", root / "train/masks/1.PNG"),
        "two masks .* are of one image.*1.PNG and 1.png",
    ),
    (lambda root: (root / "classes.txt").unlink(), "not named.*no file .*classes.txt.*line 1 is index 0"),
    (lambda root: (root / "classes.txt").write_text("cat\ndog\ncat\n"), "does not name classes.*twice: cat"),
    (lambda root: (root / "classes.txt").write_text("one\n"), "does not name classes.*1 lines"),
    (lambda root: (root / "classes.txt").write_bytes(b"\xff\nb\n"), "classes.txt cannot be read"),
    (lambda root: (root / "classes.txt").write_text("".join(f"c{i}\n" for i in range(256))), "more classes.*256.*at most 255"),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "message"), BAD_FOLDERS)
def test_a_folder_of_another_layout(root: Path, breaks: Break, message: str) -> None:
    breaks(root)
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_masked_split(root, "train")


@pytest.mark.parametrize("classes", [("background", "dog", "cat"), ("background", "cat")])
def test_a_models_classes_are_those_of_the_file_in_its_order(root: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="other classes than the model"):
        read_masked_split(root, "val", classes, may_lack=True)


BAD_MASKS: list[tuple[Break, str]] = [
    (lambda path: _save(path, np.zeros((WIDTH, HEIGHT))), r"another size than its image.*2.png: 20×30, its image 30×20"),
    (lambda path: _save(path, np.full((HEIGHT, WIDTH), 3)), r"no class.*2.png: 3\n.*0 … 2, the lines of .*classes.txt, or 255"),
    (lambda path: _save(path, np.arange(600).reshape(HEIGHT, WIDTH) % 256), "2.png: 3, 4, 5\n"),
    (lambda path: _save(path, np.zeros((HEIGHT, WIDTH, 3))), "does not hold a class index.*2.png: 8 bits, RGB\n"),
    (lambda path: path.write_bytes(path.read_bytes()[:60]), "2.png: 60 bytes, cut off"),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "message"), BAD_MASKS)
def test_a_wrong_mask_is_named(root: Path, breaks: Break, message: str) -> None:
    breaks(root / "train" / "masks" / "2.png")
    split = read_masked_split(root, "train")
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_mask(split, 2, (HEIGHT, WIDTH))
    with pytest.raises(InputError, match=f"(?s){message}"):
        split.check(track)
    assert read_mask(split, 1, (HEIGHT, WIDTH)).shape == (HEIGHT, WIDTH)


def test_all_wrong_masks_are_found(root: Path) -> None:
    for index in range(4):
        _save(root / "train" / "masks" / f"{index}.png", np.full((HEIGHT, WIDTH), 9))
    with pytest.raises(InputError) as caught:
        read_masked_split(root, "train").check(track)
    message = str(caught.value)
    assert "(4 of 5 masks in " in message and message.count(".png: 9") == 3 and "; …" in message
    read_masked_split(root, "val").check(track)


# --- a recipe's look --------------------------------------------------------------------------------------------------


def look_at(root: Path, monkeypatch: pytest.MonkeyPatch, **data: Any) -> Look:
    recipe = Recipe.model_validate({
        "schema": 1, "data": {"name": "scenes", "root": str(root), **data}, "model": {"name": "t2t_vit_mini", "image_size": 32},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}], "visualize": {"precision": "fp32"},
    })  # fmt: skip
    splits = (read_masked_split(root, "train"), read_masked_split(root, "val"))
    monkeypatch.setattr("pipeline.data.look.open_dataset", lambda data, unpack: splits)
    return Look(recipe)


CHANGES: list[tuple[Break, set[str]]] = [
    (lambda root: _save(root / "train/masks/1.png", np.zeros((HEIGHT, WIDTH))), {"train"}),
    (lambda root: _save(root / "val/masks/1.png", np.zeros((HEIGHT, WIDTH))), {"val"}),
    (lambda root: shutil.copy(root / "val/images/0.jpg", root / "val/images/1.jpg"), {"val"}),
    (lambda root: (root / "classes.txt").write_text("background\ndog\ncat\n"), {"classes"}),
    (lambda root: (root / "val/masks/notes.txt").write_text("of nobody"), set()),
]


@pytest.mark.parametrize(("change", "changed"), CHANGES)
def test_masks_and_class_names_are_content(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: Break, changed: set[str]
) -> None:
    before = look_at(root, monkeypatch).images()
    assert list(before) == ["train", "val", "classes"]
    change(root)
    after = look_at(root, monkeypatch).images()
    assert {name for name in before if before[name].digest != after[name].digest} == changed


def test_masks_are_checked_with_the_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_no_overlap(*look_at(root, monkeypatch).splits())
    look_at(root, monkeypatch).check()
    _save(root / "val" / "masks" / "0.png", np.full((HEIGHT, WIDTH), 7))
    with pytest.raises(InputError, match=r"(?s)no class.*val/masks/0.png: 7"):
        look_at(root, monkeypatch).check()
    look_at(root, monkeypatch, check=False).check()
    (root / "val" / "masks" / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"(?s)1 of 16 images cannot be decoded.*val/masks/1.png"):
        look_at(root, monkeypatch).check()
