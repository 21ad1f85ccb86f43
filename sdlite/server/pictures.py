"""Pictures in requests and answers: base64, checked before anything is unpacked."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import TYPE_CHECKING

from sdlite.errors import RequestError
from sdlite.server.limits import Limits
from sdlite.server.problem import Refused

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.server.jobs import Job
    from sdlite.server.state import Server

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""What is read; Pillow knows more, some of which starts other programs."""
MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


def from_base64(text: str, limits: Limits, name: str = "the image") -> bytes:
    """The bytes of base64, bare or in a ``data:`` URL."""
    if text[:8].lower().startswith(("http://", "https://", "file:", "ftp://")):
        raise Refused(
            422,
            f"{name} is a URL; send the picture itself, URLs are not fetched "
            "(a server started with --allow-fetch does)",
            "url_refused",
        )
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise Refused(422, f"{name} is a data URL without base64", "invalid_image")
    # Four letters are three bytes: what is too long is refused before it is unpacked.
    if len(text) > limits.body_bytes * 4 // 3 + 4:
        raise Refused(413, f"{name} is longer than a body may be", "body_too_large")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(422, f"{name} is not valid base64: {error}", "invalid_image") from error


def open_bytes(
    data: bytes, limits: Limits, name: str = "the image", left: int | None = None
) -> Image:
    """A picture as Pillow sees it, all of it read, nothing converted.

    Args:
        data: a file.
        limits: of a picture.
        name: of the picture, for errors.
        left: pixels the request's pictures may still have; None for any number.

    Raises ``Refused`` for what is no picture, damaged or too large; the header tells before pixels
    are unpacked.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > limits.input_pixels:
                raise Refused(
                    422,
                    f"{name} has {image.width}x{image.height} pixels; "
                    f"at most {limits.input_pixels} are read",
                    "image_too_large",
                )
            if left is not None and image.width * image.height > left:
                raise Refused(
                    422,
                    f"{name} is too much: the pictures of a request may have "
                    f"{limits.request_pixels} pixels together",
                    "image_too_large",
                )
            image.load()
            return image
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise Refused(
            422, f"{name} is no picture of a known format: {known}", "invalid_image"
        ) from (error)
    except Image.DecompressionBombError as error:
        raise Refused(422, f"{name} has too many pixels", "image_too_large") from error
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise Refused(422, f"{name} is a damaged picture: {error}", "invalid_image") from error


def upright_of(
    data: bytes, limits: Limits, name: str = "the image", left: int | None = None
) -> Image:
    """The bytes of a file to an upright RGB or RGBA picture; see ``open_bytes``."""
    from sdlite.image.source import upright

    image = open_bytes(data, limits, name, left)
    try:
        return upright(image, name)
    except RequestError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, KeyError) as error:
        raise Refused(422, f"{name} is a damaged picture: {error}", "invalid_image") from error


def to_base64(
    image: Image, format: str = "png", infotext: str | None = None, quality: int | None = None
) -> str:
    """A picture as the base64 of a file, with its parameters when ``infotext`` is given."""
    from sdlite.output import QUALITY, encode

    return base64.b64encode(encode(image, format, infotext, quality or QUALITY)).decode("ascii")


def preview(server: Server, job: Job) -> Image | None:
    """What the model takes the picture for, a pixel a latent cell, enlarged; None before step 1."""
    latents = job.progress.latents
    if latents is None:
        return None
    from PIL import Image

    from sdlite.preview import map_for, to_picture

    space = server.shelf.manifest(server.shelf.find(job.order.model)).latent
    small = Image.fromarray(to_picture(latents, map_for(space)))
    size = (small.width * space.factor, small.height * space.factor)
    return small.resize(size, Image.Resampling.BILINEAR)
