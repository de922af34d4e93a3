"""Make `emoji.npz`, the colour sample set in this folder, from two npm packages.

    python data/make_emoji.py <folder of emoji-datasource-google> <folder of emoji-datasource-twitter>

Each folder is a package as npm unpacks it, version 16.0.0. Every emoji in its plain form (no skin tone) becomes two
64×64 images, one of each artist, drawn over white. Emoji that are variants of each other, or that share a picture, stay
in one split; the evaluation images are `VAL_PER_CLASS` of each class, or `VAL_SHARE` of a class that has too few. The
same input gives the same arrays, whose hash is below, and the same bytes (with the same zlib).
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make_fashion_mnist import check_content, check_size, write_npz
from numpy.typing import NDArray

VERSION = "16.0.0"
ARTISTS = ("google", "twitter")
CLASSES = {  # Unicode's group and its folder; "Component" is five bare skin tones
    "Activities": "activities", "Animals & Nature": "animals-nature", "Flags": "flags", "Food & Drink": "food-drink",
    "Objects": "objects", "People & Body": "people-body", "Smileys & Emotion": "smileys-emotion",
    "Symbols": "symbols", "Travel & Places": "travel-places",
}  # fmt: skip
SIZE = 64  # px
VAL_PER_CLASS, VAL_SHARE = 100, 0.4
LARGEST_IN_VAL = 6  # images, such as woman, man and person of one trade; more would weigh too much
MAX_BYTES = 10_000_000
CONTENT_SHA256 = (
    "76e990467def12b39e39f9c013246b129e04dfa5b948fd12c57c73a2fc0523ce"  # of what the npz holds: `content_sha256`
)

JOINER, VARIATION, RIGHTWARDS = "200D", "FE0F", "27A1"
GENDERS = ("2640", "2642")
PEOPLE = {"1F466", "1F467", "1F468", "1F469", "1F9D1", "1F9D2"}  # boy, girl, man, woman, person, child
HEARTS = {"2764", "1F48B", "1F91D"}  # what joins two people: a heart, a kiss, hands

Array = NDArray[np.generic]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One artist's drawing of one emoji: RGB (SIZE, SIZE, 3)."""

    artist: str
    emoji: str  # code points as Unicode lists them, such as "1F3F3-FE0F-200D-1F308"
    label: int
    pixels: Image

    @property
    def name(self) -> str:
        return f"{self.artist}/{self.emoji.lower()}"


def kin(emoji: str) -> str:
    """What an emoji shares with its variants: a woman, man or person of one trade, a runner to the left or right."""
    points = [point for point in emoji.split("-") if point != VARIATION]
    first, *more = "-".join(points).split(f"-{JOINER}-")
    more = [part for part in more if part not in (*GENDERS, RIGHTWARDS)]
    if first not in PEOPLE:
        return first
    return "people" if set(more) <= PEOPLE | HEARTS else f"people-{more[0]}"


def over_white(image: Image) -> Image:
    """RGB of an RGBA image (H, W, 4) over white, rounded to the nearest level."""
    colour, alpha = image[..., :3].astype(np.uint32), image[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def read_package(folder: Path, artist: str) -> list[Picture]:
    """All pictures of a package, in the order of Unicode's code points."""
    import cv2

    description = folder / "package.json"
    found = json.loads(description.read_text(encoding="utf-8")) if description.is_file() else {}
    if (found.get("name"), found.get("version")) != (f"emoji-datasource-{artist}", VERSION):
        raise SystemExit(f"{folder} is not the npm package emoji-datasource-{artist} {VERSION}, unpacked")
    entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    labels = {group: label for label, group in enumerate(CLASSES)}
    pictures: list[Picture] = []
    for entry in sorted(entries, key=lambda entry: str(entry["unified"])):
        if entry["category"] in labels and entry[f"has_img_{artist}"]:
            path = folder / "img" / artist / str(SIZE) / entry["image"]
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if image is None or image.shape != (SIZE, SIZE, 4) or image.dtype != np.uint8:
                raise SystemExit(f"{path} is not an RGBA image of {SIZE}×{SIZE} pixels")
            rgba = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA), dtype=np.uint8)
            pictures.append(Picture(artist, entry["unified"], labels[entry["category"]], over_white(rgba)))
    return pictures


def group(pictures: Iterable[Picture]) -> list[list[Picture]]:
    """Pictures of kindred emoji, and of emoji that look the same, together; each different picture once.

    Groups are in the order of the hash of their emoji: arbitrary, but the same everywhere.
    """
    groups: dict[str, list[Picture]] = {}  # by kin; groups that were joined are one list
    seen: dict[bytes, str] = {}  # pixels to kin
    for picture in pictures:
        own = groups.setdefault(kin(picture.emoji), [])
        pixels = picture.pixels.tobytes()
        if pixels not in seen:
            seen[pixels] = kin(picture.emoji)
            own.append(picture)
            continue
        other = groups[seen[pixels]]
        if other is not own:
            other += own
            groups |= {name: other for name, members in groups.items() if members is own}
    distinct = {id(members): members for members in groups.values() if members}
    return sorted(distinct.values(), key=lambda members: _sha256(min(picture.emoji for picture in members)))


def split(groups: list[list[Picture]]) -> tuple[list[Picture], list[Picture]]:
    """Training and evaluation pictures: groups go to evaluation, whole, while every class of theirs has room."""
    totals = Counter(picture.label for members in groups for picture in members)
    room = {label: min(VAL_PER_CLASS, int(VAL_SHARE * total)) for label, total in totals.items()}
    train: list[Picture] = []
    val: list[Picture] = []
    for members in groups:
        wanted = Counter(picture.label for picture in members)
        fits = len(members) <= LARGEST_IN_VAL and all(room[label] >= count for label, count in wanted.items())
        if fits:
            room = {label: free - wanted[label] for label, free in room.items()}
        (val if fits else train).extend(members)
    return train, val


def make_arrays(pictures: Iterable[Picture]) -> dict[str, Array]:
    """What the npz holds."""
    train, val = split(group(pictures))
    arrays: dict[str, Array] = {}
    for name, chosen in (("train", train), ("val", val)):
        chosen.sort(key=lambda picture: (picture.label, picture.artist, picture.emoji))
        arrays[f"{name}_images"] = np.stack([picture.pixels for picture in chosen])
        arrays[f"{name}_labels"] = np.array([picture.label for picture in chosen], np.uint8)
        arrays[f"{name}_names"] = np.array([picture.name for picture in chosen])
    return arrays | {"classes": np.array(list(CLASSES.values()))}


def content_sha256(arrays: dict[str, Array]) -> str:
    """Hash of names, types, shapes and values: unlike the file's, it does not depend on zlib."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def main() -> None:
    """Read the two folders from the command line and write `emoji.npz` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for artist in ARTISTS:
        parser.add_argument(artist, type=Path, help=f"folder of the unpacked npm package emoji-datasource-{artist}")
    folders = parser.parse_args()
    arrays = make_arrays(picture for artist in ARTISTS for picture in read_package(getattr(folders, artist), artist))
    check_content(content_sha256(arrays), CONTENT_SHA256)
    target = Path(__file__).with_name("emoji.npz")
    write_npz(target, arrays)
    size = check_size(target, MAX_BYTES)
    print(f"{target}: {len(arrays['train_labels'])} train and {len(arrays['val_labels'])} val images, {size} bytes")


if __name__ == "__main__":
    main()
