"""The eight colour names and a perceptual distance between colours.

Distances are Euclidean in Oklab (Bjorn Ottosson, "A perceptual color space for image processing",
2020), times 100, computed from 8-bit sRGB values: about 2 is just noticeable, the two nearest names
of the palette (blue and purple) lie 15 apart. CIE 1976 L*a*b* was tried first: it puts blue and
purple only 28 apart where an error of 12 levels in a channel already costs 17.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (45, 85, 215),
    "yellow": (245, 215, 50),
    "purple": (140, 60, 190),
    "orange": (245, 140, 30),
    "white": (245, 245, 245),
    "black": (20, 20, 24),
}

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=np.float32,
)
_TO_LAB = 100 * np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=np.float32,
)
_LINEAR = np.arange(256 * 4, dtype=np.float32) / (256 * 4 - 1)
_LINEAR = np.where(_LINEAR <= 0.04045, _LINEAR / 12.92, ((_LINEAR + 0.055) / 1.055) ** 2.4)
_LINEAR = _LINEAR.astype(np.float32)


def to_lab(rgb: npt.ArrayLike) -> Floats:
    """Oklab times 100 of sRGB values on the 0..255 scale, shape (..., 3), clipped to it."""
    scaled = np.clip(np.asarray(rgb, dtype=np.float32) / 255.0, 0.0, 1.0)
    linear = _LINEAR[np.rint(scaled * (_LINEAR.size - 1)).astype(np.int32)]
    lab = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return np.asarray(lab, dtype=np.float32)


def distance(first_lab: Floats, second_lab: Floats) -> Floats:
    """Colour difference of arrays made by `to_lab` that broadcast together, shape (...)."""
    difference = first_lab - second_lab
    return np.asarray(np.sqrt((difference * difference).sum(axis=-1)), dtype=np.float32)


NAMES: tuple[str, ...] = tuple(PALETTE)
PALETTE_LAB: Floats = to_lab(np.array([PALETTE[name] for name in NAMES]))


def nearest_name(rgb: npt.ArrayLike, limit: float) -> str | None:
    """Name of the nearest palette colour of one (3,) colour, None when farther than `limit`."""
    away = distance(PALETTE_LAB, to_lab(rgb))
    best = int(away.argmin())
    return NAMES[best] if float(away[best]) <= limit else None
