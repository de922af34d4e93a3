"""Make `scenes.tar`, the sample set with masks in this folder, from `emoji.npz` and three packages of photographs.

    python data/make_scenes.py <@pmndrs/assets> <scikit-image> <lomiri-wallpapers-16.04>

The folders are the npm package 1.7.0, the wheel 0.26.0 and Debian's package 20.04.0-2, each unpacked. A scene is a part of a
photograph with one to four drawings on it, turned, mirrored, of any size and over each other; its mask says which class each
pixel is of. Drawings of train are those of emoji.npz's train, and photographs are of one split alone. The same input gives the
same content, whose hash is below, with the same OpenCV (5.0.0, whose JPEG it is), and the same bytes. The panoramas of the first
package need OpenEXR (`pip install OpenEXR`).
"""

import argparse
import base64
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make_fashion_mnist import check_content, check_size
from numpy.typing import NDArray

CLASSES = ("background", "animals-nature", "flags", "food-drink", "people-body", "smileys-emotion", "symbols")
SCENES = {"train": 1000, "val": 250}
SIZE = 96  # px
MOST_DRAWINGS = 4
SCALES = (0.55, 1.0)  # of the drawings' 64 px
MOST_TURN = 30.0  # degrees
LARGEST_PHOTOGRAPH = 320  # px of the shorter side: a scene shows at least 0.3 of it
VAL_PHOTOGRAPHS = 8
QUALITY = 85  # of JPEG
SEED = 17
MAX_BYTES = 8_000_000
# Of names and contents of the files: `content_sha256`
CONTENT_SHA256 = "eb758560b6dc4f9e4ac4a48c9274aeb8ee2f0a4b22e2f45d69a7c09b8e8ed959"

PANORAMAS = (  # Poly Haven's, by their names in @pmndrs/assets
    "apartment", "bridge", "city", "dawn", "esplanade", "forest", "hall", "lab", "lobby", "night", "park", "studio", "sunrise",
    "sunset", "venice", "warehouse", "workshop",
)  # fmt: skip
BAND = slice(40, 216)  # rows of a panorama of 256: above and below it is too distorted
OF_SCIKIT_IMAGE = ("chelsea.png", "coffee.png", "rocket.jpg")
OF_LOMIRI = (
    "Picture_0B_by_freespace.jpg", "Picture_1A_by_freespace.jpg", "Wine_by_Jakkub_Mede.jpg", "aitzgorri_by_Aitzol_Berasategi.jpg",
    "friends_by_Aitzol_Berasategi.jpg", "life_by_Aitzol_Berasategi.jpg", "picosdeeuropa_by_Aitzol_Berasategi.jpg",
    "seeding_by_Clements_Engelhardt.jpg", "sunset_by_Aitzol_Berasategi.jpg",
)  # fmt: skip

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Drawing:
    """RGB times opacity and opacity (S, S, 4), from 0 to 1, and the index of its class."""

    pixels: Floats
    label: int


def cut_out(image: Image) -> Floats:
    """A drawing over white (S, S, 3) as RGB times opacity and opacity (S, S, 4), from 0 to 1.

    Outside is the pure white that reaches the border: white inside a drawing stays. Pixels at the rim, which its artist's program
    mixed with white, are as opaque as they have of the colour of the deepest pixel within three.
    """
    import cv2

    white = np.pad((image == 255).all(axis=2), 1, constant_values=True).astype(np.uint8)
    _, regions = cv2.connectedComponents(white, connectivity=4)
    inside = (regions != regions[0, 0])[1:-1, 1:-1]
    depth = cv2.distanceTransform(np.pad(inside, 3).astype(np.uint8), cv2.DIST_L2, 5)
    ink = np.pad(1 - image.astype(np.float32) / 255, ((3, 3), (3, 3), (0, 0)))
    nearness = -0.01 * np.hypot(*np.mgrid[-3:4, -3:4])
    result = np.dstack([image.astype(np.float32) / 255, np.ones(image.shape[:2], np.float32)]) * inside[..., None]
    for row, column in np.argwhere(inside & (depth[3:-3, 3:-3] <= 1.5)):
        window = slice(row, row + 7), slice(column, column + 7)
        colour = ink[window].reshape(-1, 3)[(depth[window] + nearness).argmax()]
        strength = float((colour**2).sum())
        opacity = float(ink[row + 3, column + 3] @ colour) / strength if strength > 0 else 1.0
        if opacity < 0.98:
            result[row, column] = (*(max(opacity, 0.0) * (1 - colour)), max(opacity, 0.0))
    return result


def read_drawings(arrays: Mapping[str, NDArray[np.generic]], split: str) -> list[list[Drawing]]:
    """The drawings of a split of emoji.npz, by class; background has none."""
    names = [str(name) for name in arrays["classes"]]
    drawings: list[list[Drawing]] = [[]]
    for label, name in enumerate(CLASSES[1:], 1):
        images = np.asarray(arrays[f"{split}_images"], np.uint8)[arrays[f"{split}_labels"] == names.index(name)]
        drawings.append([Drawing(cut_out(image), label) for image in images])
    return drawings


def read_photographs(assets: Path, scikit_image: Path, lomiri: Path) -> dict[str, Image]:
    """All photographs by name, RGB (H, W, 3), none with a shorter side of more than LARGEST_PHOTOGRAPH."""
    photographs = {name: read_panorama(assets / "hdri" / f"{name}.exr.js") for name in PANORAMAS}
    folders = {scikit_image / "skimage" / "data": OF_SCIKIT_IMAGE, lomiri / "usr" / "share" / "backgrounds": OF_LOMIRI}
    return photographs | {name: read_photograph(folder / name) for folder, names in folders.items() for name in names}


def read_photograph(path: Path) -> Image:
    """RGB (H, W, 3), made smaller where it is too large."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path} is not there, or no image: is its package unpacked there?")
    share = min(1.0, LARGEST_PHOTOGRAPH / min(image.shape[:2]))
    size = round(image.shape[1] * share), round(image.shape[0] * share)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)[..., ::-1], np.uint8)


def read_panorama(path: Path) -> Image:
    """The middle of a panorama, RGB (H, W, 3): its radiance as a photograph shows it (Reinhard's curve)."""
    import OpenEXR

    if not path.is_file():
        raise SystemExit(f"{path} is not there: is npm's @pmndrs/assets 1.7.0 unpacked there?")
    content = base64.b64decode(path.read_text(encoding="ascii").partition("base64,")[2].partition("'")[0])
    with OpenEXR.File(io.BytesIO(content)) as file:
        radiance = np.asarray(file.channels()["RGB"].pixels, np.float64)[BAND]
    radiance = np.clip(np.nan_to_num(radiance, posinf=1e4), 0, 1e4)
    radiance *= 0.18 / np.exp(np.log(radiance.mean(axis=2) + 1e-4).mean())
    return np.asarray((radiance / (1 + radiance)) ** (1 / 2.2) * 255 + 0.5, np.uint8)


def split_photographs(photographs: Mapping[str, Image]) -> dict[str, list[Image]]:
    """The photographs of each split, in the order of the hash of their names: arbitrary, but the same everywhere."""
    names = sorted(photographs, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = {"train": names[VAL_PHOTOGRAPHS:], "val": names[:VAL_PHOTOGRAPHS]}
    return {split: [photographs[name] for name in own] for split, own in chosen.items()}


def crop(photograph: Image, generator: np.random.Generator) -> Image:
    """A square part of it, perhaps mirrored, as RGB (SIZE, SIZE, 3)."""
    import cv2

    side = int(generator.integers(SIZE, min(photograph.shape[:2]) + 1))
    top, left = (int(generator.integers(0, length - side + 1)) for length in photograph.shape[:2])
    part = photograph[top : top + side, left : left + side]
    if generator.random() < 0.5:
        part = part[:, ::-1]
    return np.asarray(cv2.resize(part, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)


def place(drawing: Drawing, generator: np.random.Generator) -> Floats:
    """The drawing on an empty scene (SIZE, SIZE, 4): of a random size and angle, perhaps mirrored, its centre in the scene."""
    import cv2

    side = round(len(drawing.pixels) * generator.uniform(*SCALES))
    pixels = cv2.resize(drawing.pixels, (side, side), interpolation=cv2.INTER_AREA)
    if generator.random() < 0.5:
        pixels = pixels[:, ::-1]
    move = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), generator.uniform(-MOST_TURN, MOST_TURN), 1.0)
    move[:, 2] += generator.uniform(SIZE * 0.1, SIZE * 0.9, 2) - (side - 1) / 2
    placed = cv2.warpAffine(np.ascontiguousarray(pixels), move, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    return np.asarray(placed, np.float32)


def compose(
    drawings: list[list[Drawing]], photographs: list[Image], generator: np.random.Generator
) -> tuple[Image, Image]:
    """A scene, RGB (SIZE, SIZE, 3), and its mask (SIZE, SIZE): where drawings overlap, the top one counts."""
    scene = crop(photographs[generator.integers(len(photographs))], generator).astype(np.float32) / 255
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(generator.integers(1, MOST_DRAWINGS + 1)):
        own = drawings[generator.integers(1, len(CLASSES))]
        drawing = own[generator.integers(len(own))]
        placed = place(drawing, generator)
        opacity = placed[..., 3:]
        scene = placed[..., :3] + (1 - opacity) * scene
        mask[opacity[..., 0] >= 0.5] = drawing.label
    return np.asarray(np.clip(scene * 255 + 0.5, 0, 255), np.uint8), mask


def make_files(
    arrays: Mapping[str, NDArray[np.generic]], photographs: Mapping[str, Image], scenes: Mapping[str, int]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of the set, sorted by name; `scenes` is how many each split has."""
    yield "classes.txt", "".join(f"{name}\n" for name in CLASSES).encode()
    own = split_photographs(photographs)
    for split, count in sorted(scenes.items()):
        drawings = read_drawings(arrays, split)
        made = [
            compose(drawings, own[split], np.random.default_rng((SEED, split == "val", index)))
            for index in range(count)
        ]
        for index, (scene, _) in enumerate(made):
            yield f"{split}/images/{index:04d}.jpg", _jpeg(scene)
        for index, (_, mask) in enumerate(made):
            yield f"{split}/masks/{index:04d}.png", _png(mask)


def _jpeg(image: Image) -> bytes:
    import cv2

    return bytes(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def _png(mask: Image) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of files alone, without times, owners or other than plain heads."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)  # mode 644, everything else zero
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def content_sha256(files: Iterable[tuple[str, bytes]]) -> str:
    """Hash of names and contents."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def main() -> None:
    """Read the three folders from the command line and write `scenes.tar` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in ("assets", "scikit_image", "lomiri"):
        parser.add_argument(package, type=Path, help="folder of the unpacked package")
    given = parser.parse_args()
    with np.load(Path(__file__).with_name("emoji.npz"), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    files = list(make_files(arrays, read_photographs(given.assets, given.scikit_image, given.lomiri), SCENES))
    check_content(content_sha256(files), CONTENT_SHA256)
    target = Path(__file__).with_name("scenes.tar")
    write_tar(target, files)
    size = check_size(target, MAX_BYTES)
    print(f"{target}: {SCENES['train']} train and {SCENES['val']} val scenes, {size} bytes")


if __name__ == "__main__":
    main()
