"""Pictures to the size a model works at, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two exclusive."""
LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Fit:
    """How a picture lies on a canvas."""

    size: Size
    """Of the canvas."""
    inner: Box
    """Where on the canvas it lies; around it, its edges are drawn out."""
    source: tuple[float, float, float, float] | None = None
    """The part of the picture that is shown; None is all of it."""

    def apply(self, image: Image.Image) -> Image.Image:
        """The canvas with the picture."""
        left, top, right, bottom = self.inner
        image = _resize(image, (right - left, bottom - top), self.source)
        around = ((top, self.size[1] - bottom), (left, self.size[0] - right))
        if around == ((0, 0), (0, 0)):
            return image
        pixels = np.asarray(image)
        return Image.fromarray(np.pad(pixels, (*around, (0, 0))[: pixels.ndim], "edge"))

    def undo(self, canvas: Image.Image, size: Size) -> Image.Image:
        """What a canvas shows where the picture lies, at ``size``."""
        return _resize(canvas.crop(self.inner), size)


def pad(size: Size, multiple: int) -> Fit:
    """The picture as it is, at the top left of a canvas whose sides are multiples."""
    width, height = (-(-side // multiple) * multiple for side in size)
    return Fit((width, height), (0, 0, *size))


def stretch(canvas: Size) -> Fit:
    """The picture over all of the canvas, whatever becomes of its proportions."""
    return Fit(canvas, (0, 0, *canvas))


def crop(size: Size, canvas: Size) -> Fit:
    """The picture in its proportions over all of the canvas, cut off evenly."""
    scale = max(canvas[0] / size[0], canvas[1] / size[1])
    width, height = canvas[0] / scale, canvas[1] / scale
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    right, bottom = min(left + width, size[0]), min(top + height, size[1])
    return Fit(canvas, (0, 0, *canvas), (max(left, 0.0), max(top, 0.0), right, bottom))


def fill(size: Size, canvas: Size) -> Fit:
    """The whole picture in its proportions, in the middle of the canvas."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    width, height = (max(round(side * scale), 1) for side in size)
    left, top = (canvas[0] - width) // 2, (canvas[1] - height) // 2
    return Fit(canvas, (left, top, left + width, top + height))


def _resize(
    image: Image.Image, size: Size, part: tuple[float, float, float, float] | None = None
) -> Image.Image:
    if image.size == size and part is None:
        return image
    return image.resize(size, LANCZOS, box=part)
