"""What lies under a mask before painting begins: A1111's "masked content: fill"."""

from __future__ import annotations

from PIL import Image, ImageFilter, ImageOps

LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Blur radius in pixels and how often its layer is laid over the ones before, coarse to fine."""


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours around the mask flowing into it.

    The unmasked part is blurred, with its transparency, at falling radii; each blur is laid over
    the coarser ones, so that colours near the edge come from near, and those far inside from far.

    Args:
        image: RGB.
        mask: mode ``L``, same size, white is filled.

    Returns:
        RGB. A mask that covers everything gives black.
    """
    # Premultiplied: what is masked must not bleed its colour into the blur.
    known = Image.new("RGBa", image.size)
    known.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask))
    result = Image.new("RGBA", image.size)
    for radius, repeats in LAYERS:
        layer = known.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            result.alpha_composite(layer)
    return result.convert("RGB")


def without_holes(image: Image.Image) -> Image.Image:
    """The picture with the colours around flowing into its transparent part.

    Args:
        image: RGBA. Where it is opaque every byte stays; where it is half transparent, its colour
            counts half.

    Returns:
        RGB. A picture that is transparent everywhere gives black.
    """
    alpha = image.getchannel("A")
    result = filled(image.convert("RGB"), ImageOps.invert(alpha))
    result.paste(image.convert("RGB"), mask=alpha.point([0] * 255 + [255]))
    return result
