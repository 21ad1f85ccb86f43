"""What tests of the page do again and again."""

from __future__ import annotations

import base64
import io
import urllib.request
from typing import Any

import numpy as np
from PIL import Image

from tests.server.helpers import until

RESULT = "figure.frame:not(.drawing) > img"
SEED = "#seed"
JOBS = "/api/v1/jobs"


def draw(page: Any, prompt: str = "a red circle") -> None:
    """Ask for a picture, and wait until it is on the stage."""
    page.fill("#prompt", prompt)
    with page.expect_response(lambda answer: answer.status == 202 and JOBS in answer.url) as answer:
        page.keyboard.press("Control+Enter")
    job = answer.value.json()["id"]
    until(lambda: job in (address(page) or ""))


def address(page: Any) -> str | None:
    """Of the picture on the stage; None while there is none."""
    found: str | None = page.evaluate(f"document.querySelector({RESULT!r})?.src ?? null")
    return found


def shown(page: Any) -> Image.Image:
    """The picture on the stage, as the server gives it."""
    image = Image.open(io.BytesIO(page.context.request.get(address(page)).body()))
    image.load()
    return image


def metric(server: Any, name: str) -> int:
    with urllib.request.urlopen(server.url + "/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[-1])


def drop(page: Any, data: str) -> None:
    """Drop a PNG on the page, as a person does with a file."""
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], 'a.png', { type: 'image/png' }));
            for (const name of ['dragover', 'drop']) {
                const event = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent(name, event));
            }
        }""",
        data,
    )


def painted(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A stroke between two points, in shares of the picture."""
    box = page.locator(".painting").bounding_box()
    across = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*across[0])
    page.mouse.down()
    page.mouse.move(*across[1], steps=5)
    page.mouse.up()


def mask_of(job: dict[str, Any]) -> np.ndarray[Any, Any]:
    data = base64.b64decode(job["edit"]["mask"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def png(image: Image.Image, text: str | None = None) -> bytes:
    from sdlite.output import encode

    return encode(image, "png", text)
