"""Colours of classes, for class maps as pictures: on the report's page, and over photographs.

The first eight are Okabe and Ito's (Color universal design, 2008), black first, which colour-blind readers tell apart. Each
further one is that of a grid which is furthest from all before it, by usual sight and by deuteranopia and protanopia:
`tests/palette.py` makes them.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.tasks.pixels import NO_CLASS, Map

_HEX = (
    "000000e69f0056b4e9009e73f0e4420072b2d55e00cc79a75a001e0000879600ff005a00a50078ffffff00ffd2f02dff0f002d"
    "3c00e10fd25a5a4b5aff0069a51e000f2d2d6900968778e1ff87ff3c005affc3ff000f00b43cc3ff9696875a9696a55a69ff69"
    "ffd2a578691e0f78690087ff00c3a578e1f0f00fb44b5ae1c3ffb4691e5aa5d2784b2d002d000f3c4b96d2003c0f96c3c387ff"
    "c396870f96001e2d69783cb4ff694b1e4b3c0f2da5a596d2a5783c965a4b00000fe196d2c3f0f0ff5ad2b4e1000f0000871e3c"
    "690ff0d2ff00b4c3ffc36969d24b96005a7869a51ee1c32dd25ad24b5a2d4b2db4b43c69783c78ffb4694b2d3cffff874b2d78"
    "001e4b6996e1ff78b4c3b47800f0962d1e00780000a54bf0004bd29678a54b698769ffff69875aa5b4006969c3960fa5b44b00"
    "00d2e10f8796b4a5ff2d782d69a5b487c39669695a00004ba5f0872d1e3cffe1e1d20087a5e1c3870fd2e14b4b1eb469d2d2e1"
    "e1b4e1003c004be1b400e1001e00690000d2ff4b96873c0f2d0096963c4bb400e15a3c2d6987b4b469ff3c002d6900c3000f1e"
    "c3874b0f3c4bffa5ff870f696996875a0069ffffc3a58778d2d287d21ed2b469b4876978ff874b875ad269e15ab40fa51e3c87"
    "96b4e12dff0f00693c878700a54ba5b43c3c694b96f069784b78e1a50f3c001e003c0f78e1870f783c4b5a4bc34bd287001e2d"
    "3c00b43c4bff3c1e1ea5a5b45a3c690fb4c3e1f0c3e169f01e0f3c87f0b4ff2de169a578e1a5a52d3c1ee18796ffa5d2691e2d"
    "e187f0005ab4e1c3b4962d69782d960000a59669c3e1f0874b1e5a2da596a500c300f0ff1e0f1ee12d5a694b1ee1875aa587f0"
    "96c3d2ffc34b785a78e1ff695a5a4bb48796c396e1ff0f1e0f00f04b78782d3c690f2d4bc3a54be1b4873c874b964b00f05a0f"
    "4b0000873cf05a693c5a3c87f05ab469c35a695aff3c5a8787784bb469874bc3c3d26987a587b43c1eff8796a51e5a4b78c3ff"
    "78e187b4e196d20f694b69a5f0c3d28787d2a55ad2a5d22d002d874bc31eb4a578964b78785a2dff4b3cc378e1b4c34be1e1d2"
)
PALETTE: NDArray[np.uint8] = np.frombuffer(bytes.fromhex(_HEX), dtype=np.uint8).reshape(-1, 3)  # (255, 3) RGB
HATCHED: NDArray[np.uint8] = np.array([[128] * 3, [190] * 3], dtype=np.uint8)  # the two greys of pixels without a class
_STRIPE = 3  # pixels


def colour_map(maps: Map) -> NDArray[np.uint8]:
    """Class maps (N, H, W) as RGB (N, H, W, 3); `NO_CLASS`, which is also what a mask ignores, is hatched in grey."""
    if maps.ndim != 3 or maps.dtype != np.uint8:
        raise ValueError(f"got maps of shape {maps.shape} and type {maps.dtype}, wanted uint8 (images, H, W)")
    rows, columns = np.indices(maps.shape[1:])
    hatch = HATCHED[(rows + columns) // _STRIPE % 2]
    colours = np.vstack([PALETTE, HATCHED[:1]])[maps]
    return np.where((maps == NO_CLASS)[..., None], hatch, colours)


def hex_colour(index: int) -> str:
    """`#e69f00`: the colour of a class."""
    return f"#{PALETTE[index].tobytes().hex()}"
