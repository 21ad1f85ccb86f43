"""Masks: where to repaint. Mode ``L``, white (255) is repainted, black stays as it is.

The definitions are A1111's: which channel of a file is the mask, how it is blurred, which part of
the picture "only masked" works on, and which latent cells a mask means.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from sdlite.image.fit import LANCZOS, Box
from sdlite.types import Array, Float32

BLUR_REACH = 2.5
"""A blur reaches this many of its standard deviations, and not one pixel further."""


def read_mask(image: Image.Image, soft: bool = False) -> Image.Image:
    """The mask in a picture: its transparency if it has some (opaque is repainted), else its grey.

    Args:
        image: mode ``RGB`` or ``RGBA``, as ``upright`` gives it.
        soft: keep half transparent pixels; otherwise they are repainted or not.
    """
    if image.mode != "RGBA":
        return image.convert("L")
    share = image.getchannel("A")
    return share if soft else share.point([255 if level > 128 else 0 for level in range(256)])


def transparent(image: Image.Image) -> Image.Image:
    """Mask of the transparent part of a picture itself: there is nothing, so it is painted."""
    if image.mode != "RGBA":
        return Image.new("L", image.size, 0)
    return ImageOps.invert(image.getchannel("A"))


def reach(blur: float) -> int:
    """How many pixels beyond the mask a blur of this standard deviation changes."""
    return int(BLUR_REACH * blur + 0.5) if blur > 0 else 0


def blurred(mask: Image.Image, blur: float) -> Image.Image:
    """A mask with soft edges: Gaussian of standard deviation ``blur`` pixels, cut at ``reach``."""
    far = reach(blur)
    if far == 0:
        return mask
    places = np.arange(-far, far + 1, dtype=np.float32)
    kernel = np.exp(places * places / np.float32(-2.0 * blur * blur))
    kernel /= kernel.sum()
    values = np.asarray(mask, np.float32)
    for axis in (1, 0):
        values = np.rint(_convolve(values, kernel, axis))
    return Image.fromarray(values.astype(np.uint8))


def _convolve(values: Float32, kernel: Float32, axis: int) -> Float32:
    far = len(kernel) // 2
    around = [(0, 0), (0, 0)]
    around[axis] = (far, far)
    wide = np.pad(values, around, "reflect")
    total = np.zeros_like(values)
    for place, weight in enumerate(kernel):
        part = [slice(None), slice(None)]
        part[axis] = slice(place, place + values.shape[axis])
        total += wide[tuple(part)] * weight
    return total


def region(mask: Image.Image, padding: int, canvas: tuple[int, int]) -> Box:
    """The part of the picture "only masked" works on.

    The box of everything that is not black, ``padding`` pixels wider on every side, then grown to
    the proportions of ``canvas`` as far as the picture has room.

    Args:
        mask: not all black.
        padding: pixels.
        canvas: width and height the part will be worked on at.
    """
    box = mask.getbbox()
    if box is None:
        raise AssertionError("an empty mask was refused before")
    left, right = max(box[0] - padding, 0), min(box[2] + padding, mask.width)
    top, bottom = max(box[1] - padding, 0), min(box[3] + padding, mask.height)
    wanted = canvas[0] / canvas[1]
    if (right - left) / (bottom - top) > wanted:
        top, bottom = _grown(top, bottom, int((right - left) / wanted), mask.height)
    else:
        left, right = _grown(left, right, int((bottom - top) * wanted), mask.width)
    return left, top, right, bottom


def _grown(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """An interval of ``length`` around another, moved to lie within 0 and ``limit``."""
    start -= max(length - (end - start), 0) // 2
    end = start + max(length, end - start)
    start -= max(end - limit, 0)
    end -= max(end - limit, 0)
    return max(start, 0), min(end - min(start, 0), limit)


def latent_mask(mask: Image.Image, size: tuple[int, int], soft: bool) -> Float32:
    """The share of each latent cell that is repainted: float32 ``(1, 1, height, width)``, 0 to 1.

    Args:
        mask: at the size worked at.
        size: width and height in latent cells.
        soft: keep shares; otherwise a cell is repainted or not.
    """
    small = np.asarray(mask.resize(size, Image.Resampling.BICUBIC), np.float32) / np.float32(255)
    return (small if soft else np.rint(small))[None, None]


def overlay(mask: Image.Image) -> Image.Image:
    """What is taken from the new picture when the whole picture was worked on.

    The latents change up to where the blurred mask is half; twice its value has no seam there.
    """
    return mask.point([min(2 * level, 255) for level in range(256)])


def paste(original: Image.Image, painted: Image.Image, mask: Image.Image) -> Image.Image:
    """``painted`` over ``original``, both RGB, in the share of the mask; black leaves every bit."""
    below, above = np.asarray(original, np.uint32), np.asarray(painted, np.uint32)
    share: Array = np.asarray(mask, np.uint32)[:, :, None]
    mixed = (below * (255 - share) + above * share + 127) // 255
    return Image.fromarray(mixed.astype(np.uint8))


def resized(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask at another size."""
    return mask if mask.size == size else mask.resize(size, LANCZOS)
