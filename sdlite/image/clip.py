"""Pictures as CLIP's image encoders take them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdlite.types import Float32

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures CLIP was trained with."""
LONGEST = 16
"""Of a picture longer than this many of its shorter sides only the middle is resized, so that a
thin strip does not take gigabytes."""


def clip_pixels(picture: Image.Image, size: int) -> Float32:
    """The middle square of a picture, normalised: float32 ``(1, 3, size, size)``.

    What transformers' ``CLIPImageProcessor`` makes of it: the shorter side becomes ``size``,
    bicubic, and the rest is cut off evenly.
    """
    picture = picture.convert("RGB")
    short = min(picture.size)
    if max(picture.size) > LONGEST * short:
        picture = _middle(picture, *(min(side, LONGEST * short) for side in picture.size))
    wide = (size * picture.width // short, size * picture.height // short)
    small = _middle(picture.resize(wide, Image.Resampling.BICUBIC), size, size)
    pixels = np.asarray(small, np.float32) / np.float32(255)
    normal = (pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], np.float32)


def _middle(picture: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
