"""Pictures on their way in: any file or PIL image to upright RGB of 8 bits, or RGBA."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sdlite.errors import RequestError

MAX_PIXELS = 89_478_485
"""Most pixels a picture may have: where Pillow begins to warn of decompression bombs (256 MB)."""
EXIF_ORIENTATION = 0x0112
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as in A1111."""


def open_picture(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Read a picture file; only its header is looked at before its size is known to be sane.

    Args:
        source: path, or the bytes of a file.
        name: what errors call it; None is the path.

    Returns:
        An upright picture, mode ``RGB``, or ``RGBA`` when it has transparent pixels.

    Raises:
        RequestError: there is no such file, it is no picture, damaged, or too large.
    """
    if isinstance(source, bytes):
        name = name or "the picture"
        stream: Path | io.BytesIO = io.BytesIO(source)
    else:
        stream = Path(source)
        name = name or str(source)
        if not stream.is_file():
            raise RequestError(f"no file {name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                _check_size(image, name)
                image.load()
                return upright(image, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(
            f"{name} has more than {MAX_PIXELS} pixels; make it smaller first"
        ) from error
    except UnidentifiedImageError as error:
        raise RequestError(f"{name} is no picture of a format that can be read") from error
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise RequestError(f"{name} is no picture that can be read: {error}") from error


def upright(image: Image.Image, name: str = "the picture") -> Image.Image:
    """A PIL image of any mode, turned as its EXIF orientation says, as 8-bit RGB or RGBA.

    Grey levels of 16 bits are scaled, those of floats are taken as 0 to 1, or 0 to 255 when one is
    larger than 1. Colour profiles are not applied. Of an animation the present frame is taken.

    Raises:
        RequestError: it has more than ``MAX_PIXELS`` pixels or none, or values out of range.
    """
    _check_size(image, name)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image, name)
    turned = ImageOps.exif_transpose(image)
    wanted = "RGBA" if turned.has_transparency_data else "RGB"
    try:
        converted = turned if turned.mode == wanted else turned.convert(wanted)
    except ValueError as error:
        raise RequestError(f"{name} has mode {image.mode}, which cannot be read") from error
    if wanted == "RGBA" and converted.getchannel("A").getextrema() == (255, 255):
        return converted.convert("RGB")
    return converted


def flatten(image: Image.Image) -> Image.Image:
    """RGB or RGBA to RGB, on white."""
    if image.mode == "RGB":
        return image
    behind = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(behind, image).convert("RGB")


def _check_size(image: Image.Image, name: str) -> None:
    count = image.width * image.height
    if count > MAX_PIXELS:
        raise RequestError(
            f"{name} has {image.width}x{image.height} pixels, more than {MAX_PIXELS}; "
            "make it smaller first"
        )
    if count == 0:
        raise RequestError(f"{name} has no pixels")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey levels of more than 8 bits to mode ``L``; EXIF stays with the picture."""
    values = np.asarray(image, np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        top = 1.0 if high <= 1.0 else 255.0
    else:
        top = 65535.0
    if not (low >= 0.0 and high <= top):
        raise RequestError(
            f"{name} has grey levels from {low:g} to {high:g}; 0 to {top:g} can be read"
        )
    grey = Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))
    orientation = image.getexif().get(EXIF_ORIENTATION)
    if orientation is not None:
        grey.getexif()[EXIF_ORIENTATION] = orientation
    return grey
