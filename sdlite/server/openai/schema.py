"""Bodies of OpenAI's images API, and keys it has not: seed, steps and so on."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sdlite.server.bodies import Lenient
from sdlite.server.native.schema import LoraBody

Format = Literal["png", "jpeg", "webp"]


def _from_text(value: Any) -> Any:
    """A form has text only: a list in it is written as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


class Images(Lenient):
    """Fields of every kind of request."""

    model: str | None = None
    n: int = Field(1, ge=1)
    size: str = "auto"
    quality: Literal["auto", "standard", "low", "medium", "high", "hd"] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Format = "png"
    output_compression: int | None = Field(None, ge=0, le=100)
    background: Literal["auto", "opaque", "transparent"] = "auto"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    negative_prompt: str = ""
    seed: int = Field(-1, ge=-1, lt=2**64)
    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, le=100)
    sampler: str | None = None
    schedule: str | None = None
    loras: Annotated[list[LoraBody], BeforeValidator(_from_text)] = Field(
        default_factory=list, max_length=32
    )


class Generation(Images):
    """``POST /v1/images/generations``."""

    prompt: str


class EditForm(Images):
    """``POST /v1/images/edits``; ``image`` and ``mask`` are files."""

    prompt: str
    strength: float | None = Field(None, ge=0, le=1)


class VariationForm(Images):
    """``POST /v1/images/variations``; ``image`` is a file."""

    prompt: str = ""
    strength: float | None = Field(None, ge=0, le=1)
