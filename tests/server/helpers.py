"""Pictures for requests, servers in processes of their own, and waiting."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

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


PROGRAM = """
import sys
from sdlite import registry
from sdlite.cli import main
from sdlite_runtimes.null import NullRuntime
registry._runtimes["null"] = NullRuntime({"component": "unet", "delay": sys.argv.pop(1)})
main()
"""


class Running:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.url = process.stdout.readline().removeprefix("sdlite serves ").strip()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)
