"""PIL pictures to what the autoencoder takes, and what it gives to PIL pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdlite.types import Float32


def to_uint8(sample: Float32) -> npt.NDArray[np.uint8]:
    """Decoder output to bytes.

    Args:
        sample: float32 ``(batch, 3, height, width)`` in -1..1; what lies outside is clipped.

    Returns:
        uint8 ``(batch, height, width, 3)``, rounded to nearest.
    """
    scaled = np.clip(sample * np.float32(127.5) + np.float32(127.5), 0.0, 255.0)
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1))


def to_pictures(sample: Float32) -> tuple[Image.Image, ...]:
    """Decoder output to one RGB picture an item; shapes as in ``to_uint8``."""
    return tuple(Image.fromarray(pixels) for pixels in to_uint8(sample))


def from_picture(image: Image.Image) -> Float32:
    """RGB picture to encoder input: float32 ``(1, 3, height, width)``, -1 to 1."""
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(pixels / np.float32(127.5) - np.float32(1.0))
