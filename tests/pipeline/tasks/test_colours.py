import numpy as np
import pytest
from palette import COUNT, FIRST, distances, make_palette

from pipeline.tasks.colours import HATCHED, PALETTE, colour_map, hex_colour
from pipeline.tasks.pixels import MOST_CLASSES, NO_CLASS


def test_every_class_has_its_own_colour_and_the_greys_are_nobodys() -> None:
    assert PALETTE.shape == (MOST_CLASSES, 3) and MOST_CLASSES == COUNT
    every = np.vstack([PALETTE, HATCHED])
    assert len(np.unique(every, axis=0)) == COUNT + 2
    assert hex_colour(1) == "#e69f00" and PALETTE[1].tolist() == [0xE6, 0x9F, 0]


def test_the_palette_is_the_one_that_is_made() -> None:
    assert np.array_equal(PALETTE[: len(FIRST)], FIRST)
    assert (make_palette() == PALETTE).all(axis=1).mean() > 0.9, "rounding may decide between equally far ones"


@pytest.mark.parametrize(("count", "usual", "colour_blind"), [(10, 0.15, 0.07), (20, 0.15, 0.05), (255, 0.04, 0.012)])
def test_colours_are_apart_also_for_colour_blind_readers(count: int, usual: float, colour_blind: float) -> None:
    """In OKLab, where black and white are 1 apart. Okabe and Ito's eight are 0.156 apart by usual sight, 0.076 by the others."""
    normal, deuteranopia, protanopia = (found.min() for found in distances(PALETTE[:count]))
    assert normal > usual and min(deuteranopia, protanopia) > colour_blind


def test_a_map_becomes_a_picture_with_pixels_without_a_class_hatched() -> None:
    maps = np.full((2, 12, 12), NO_CLASS, dtype=np.uint8)
    maps[0, 2, 3], maps[1, 0, 0], maps[1, 5:7] = 1, 254, 0
    found = colour_map(maps)
    assert found.shape == (2, 12, 12, 3) and found.dtype == np.uint8
    assert found[0, 2, 3].tolist() == PALETTE[1].tolist() and found[1, 0, 0].tolist() == PALETTE[254].tolist()
    assert (found[1, 5:7] == PALETTE[0]).all()
    greys = np.unique(found[maps == NO_CLASS], axis=0)
    assert greys.tolist() == HATCHED.tolist(), "both greys of the stripes, and no other"


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        colour_map(np.zeros((4, 4), dtype=np.uint8))
