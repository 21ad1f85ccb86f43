"""OpenAI's own client against a running server."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdlite
from sdlite.types import Edit, Request

openai: Any = pytest.importorskip("openai", reason="pip install openai to run these")

PROMPT = "a large red circle on a blue background"
EXTRA = {"seed": 7, "steps": 6}


@pytest.fixture(scope="module")
def images(port: int) -> Any:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none").images


def picture(coded: str | None) -> Image.Image:
    assert coded is not None
    return Image.open(io.BytesIO(base64.b64decode(coded))).convert("RGB")


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def same(image: Image.Image, pipe: sdlite.Pipeline, request: Request) -> None:
    (expected,) = pipe.generate(request).images
    difference = np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16))
    assert difference.max() <= 2


def test_generating(images: Any, pipe: sdlite.Pipeline) -> None:
    result = images.generate(prompt=PROMPT, n=2, size="64x64", extra_body=EXTRA)
    assert len(result.data) == 2 and result.created > 0
    same(picture(result.data[1].b64_json), pipe, Request(PROMPT, "", 64, 64, 6, seed=8))


def test_streaming(images: Any, pipe: sdlite.Pipeline) -> None:
    stream = images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body=EXTRA)
    found = list(stream)
    kinds = [event.type for event in found]
    assert kinds[-1] == "image_generation.completed" and len(kinds) <= 3
    same(picture(found[-1].b64_json), pipe, Request(PROMPT, steps=6, seed=7))


def test_editing(images: Any, pipe: sdlite.Pipeline) -> None:
    source = Image.new("RGB", (64, 64), "navy")
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (32, 0, 64, 64))
    result = images.edit(image=png(source), mask=png(mask), prompt=PROMPT, extra_body=EXTRA)
    edit = Edit(source, strength=1.0, mask=mask, invert_mask=True)
    same(picture(result.data[0].b64_json), pipe, Request(PROMPT, steps=6, seed=7, edit=edit))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client, for OpenAI's models
def test_varying(images: Any, pipe: sdlite.Pipeline) -> None:
    source = Image.new("RGB", (64, 64), "navy")
    result = images.create_variation(image=png(source), extra_body=EXTRA)
    edit = Edit(source, strength=0.75)
    same(picture(result.data[0].b64_json), pipe, Request("", steps=6, seed=7, edit=edit))


def test_models(port: int) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    assert {"shapes", "another"} <= {model.id for model in client.models.list()}


def test_errors(images: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="multiple of 8"):
        images.generate(prompt=PROMPT, size="65x64")
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        images.generate(prompt=PROMPT, model="nothing")
