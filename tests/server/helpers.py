"""Pictures for requests, and waiting."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable

from PIL import Image

SLOW = {"component": "unet", "delay": "0.05"}
"""Engine options: each call of the U-Net takes a twentieth of a second."""
PATIENCE = 30.0


def picture(size: tuple[int, int] = (64, 64), colour: str = "red", mode: str = "RGB") -> str:
    """A picture of one colour as base64."""
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def opened(text: str) -> Image.Image:
    """The picture of an answer, read from its base64."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; fails when it does not become so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.005)
