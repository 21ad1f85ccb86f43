"""The pictures of one request: where they come from, and how much they may be together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdlite.server.fetch import fetch
from sdlite.server.limits import Limits
from sdlite.server.pictures import from_base64, open_bytes, upright_of

if TYPE_CHECKING:
    from PIL.Image import Image

WEB = ("http://", "https://")


class Intake:
    """Reads pictures for one request, and counts their pixels.

    Args:
        limits: of each picture and of all.
        fetches: whether URLs in place of pictures are fetched.
    """

    def __init__(self, limits: Limits, fetches: bool = False) -> None:
        self._limits = limits
        self._fetches = fetches
        self._pixels = 0

    def bytes_of(self, text: str, name: str = "the image") -> bytes:
        """The file that base64, a ``data:`` URL or, where it is allowed, a URL stands for."""
        if self._fetches and text[:8].lower().startswith(WEB):
            return fetch(text, self._limits.body_bytes, name)
        return from_base64(text, self._limits, name)

    def opened(self, text: str, name: str = "the image") -> Image:
        """A picture as Pillow sees it, to look at what is written in it."""
        return open_bytes(self.bytes_of(text, name), self._limits, name)

    def read(self, text: str, name: str = "the image") -> Image:
        """An upright RGB or RGBA picture that is kept until the request is done."""
        return self.read_file(self.bytes_of(text, name), name)

    def read_file(self, data: bytes, name: str = "the image") -> Image:
        """The same of a file's bytes."""
        most = self._limits.request_pixels
        image = upright_of(data, self._limits, name, most - self._pixels)
        self._pixels += image.width * image.height
        return image
