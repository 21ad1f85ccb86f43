"""A picture to edit, laid out at the size the model works at, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageOps

from sdlite.errors import RequestError
from sdlite.image import fit as fits
from sdlite.image import mask as masks
from sdlite.image.content import filled
from sdlite.image.fit import Box, Fit, Size
from sdlite.image.source import flatten

RESIZES = ("pad", "stretch", "crop", "fill")
"""How a picture of another size comes to the size worked at; see ``fit``."""


@dataclass(frozen=True)
class Canvas:
    """What the model gets, and where its answer goes."""

    picture: Image.Image
    """RGB at the size worked at: what is encoded."""
    mask: Image.Image | None
    """Mode ``L``, same size, blurred: what is repainted; None is everything."""
    original: Image.Image
    """RGB: what the answer is pasted into."""
    region: Box
    """The part of ``original`` that is worked on."""
    fit: Fit
    """How that part lies on the canvas."""
    overlay: Image.Image | None
    """Mode ``L``, size of ``original``: the share of the answer; None takes all of it."""

    def finish(self, painted: Image.Image) -> Image.Image:
        """The edited picture from what the decoder made, RGB; black in the mask is unchanged."""
        left, top, right, bottom = self.region
        part = self.fit.undo(painted, (right - left, bottom - top))
        if part.size == self.original.size:
            whole = part
        else:
            whole = self.original.copy()
            whole.paste(part, (left, top))
        return whole if self.overlay is None else masks.paste(self.original, whole, self.overlay)


def lay_out(
    image: Image.Image,
    mask: Image.Image | None,
    size: Size,
    *,
    resize: str,
    blur: float = 0.0,
    soft: bool = False,
    fill: bool = False,
    only_masked: bool = False,
    padding: int = 0,
    paste: bool = True,
) -> Canvas:
    """Lay a picture out, as A1111 does.

    Args:
        image: RGB or RGBA, upright; transparent pixels become white.
        mask: mode ``L``, same size as ``image``, white is repainted; None repaints everything.
        size: width and height to work at. With ``pad`` those of the picture, rounded up.
        resize: one of ``RESIZES``; with ``only_masked`` the region is fitted in its proportions.
        blur: standard deviation in pixels that softens the mask's edge.
        soft: keep shades of grey in the mask: shares of the new picture.
        fill: fill what is masked with the colours around it.
        only_masked: work on the masked region alone, enlarged to ``size``, and paste it back.
        padding: pixels of surroundings that ``only_masked`` takes with it.
        paste: keep what is not masked byte for byte; otherwise take the model's picture of it.

    Raises:
        RequestError: nothing is masked.
    """
    original = flatten(image)
    if mask is None:
        lay = _fit(resize, original.size, size)
        shown = original if resize == "pad" else lay.apply(original)
        whole = (0, 0, *shown.size)
        back = lay if resize == "pad" else fits.stretch(size)
        return Canvas(lay.apply(original), None, shown, whole, back, None)
    if mask.getbbox() is None:
        raise RequestError(
            "the mask is empty: white is repainted, and nothing of it is white; "
            "invert it if black was meant"
        )
    mask = masks.blurred(mask, blur)
    if only_masked:
        region = masks.region(mask, padding, size)
        lay = fits.fill((region[2] - region[0], region[3] - region[1]), size)
    else:
        if resize != "pad":
            lay = _fit(resize, original.size, size)
            original, mask = lay.apply(original), lay.apply(mask)
            resize = "stretch"
        region, lay = (0, 0, *original.size), _fit(resize, original.size, size)
    picture, shape = lay.apply(original.crop(region)), lay.apply(mask.crop(region))
    if fill:
        picture = filled(picture, shape)
    overlay = mask if only_masked or soft else masks.overlay(mask)
    return Canvas(picture, shape, original, region, lay, overlay if paste else None)


def _fit(resize: str, size: Size, canvas: Size) -> Fit:
    if resize == "pad":
        return Fit(canvas, (0, 0, *size))
    if resize == "stretch":
        return fits.stretch(canvas)
    return fits.crop(size, canvas) if resize == "crop" else fits.fill(size, canvas)


def mask_for(
    image: Image.Image, given: Image.Image | None, *, alpha: bool, invert: bool, soft: bool
) -> tuple[Image.Image | None, tuple[str, ...]]:
    """The mask of an edit at the size of its picture, not yet blurred, and what to say about it.

    Args:
        image: the picture, upright.
        given: the mask's picture, upright; None when there is none.
        alpha: take the transparent part of ``image`` as the mask.
        invert: swap what is repainted and what stays.
        soft: keep half transparent pixels.

    Raises:
        RequestError: both kinds of mask are given, or ``alpha`` of a picture without transparency.
    """
    notes: tuple[str, ...] = ()
    if alpha:
        if given is not None:
            raise RequestError("two masks: a picture, and the transparent part of the image")
        if image.mode != "RGBA":
            raise RequestError("the image has no transparent pixels to take as the mask")
        mask = masks.transparent(image)
    elif given is None:
        return None, ()
    else:
        mask = masks.read_mask(given, soft)
        if mask.size != image.size:
            notes = (
                f"the mask has {mask.width}x{mask.height} pixels and the image "
                f"{image.width}x{image.height}: the mask was resized",
            )
            mask = masks.resized(mask, image.size)
    return (ImageOps.invert(mask) if invert else mask), notes
