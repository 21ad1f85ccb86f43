"""What every form is turned into: A1111's fields, and what they cannot say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sdlite.errors import RequestError
from sdlite.metadata import Parameters

MAX_CHARACTERS = 4_000_000
"""More than any program writes."""


@dataclass(frozen=True)
class Carried:
    """What a picture carries."""

    program: str
    """Who wrote it, or whose form it has."""
    parameters: Parameters
    """The same in A1111's terms."""
    problems: tuple[str, ...] = ()
    """What of it cannot be followed, and why."""


def load_json(text: str, what: str) -> Any:
    """Parse; raises ``RequestError`` that calls it ``what``."""
    if len(text) > MAX_CHARACTERS:
        raise RequestError(f"{what} has {len(text)} characters, at most {MAX_CHARACTERS} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{what} cannot be read: {error}") from error


def model_name(value: object) -> str | None:
    """A model's name from a file's: without folders and ending."""
    if not isinstance(value, str) or not value:
        return None
    name = PurePosixPath(value.replace("\\", "/")).name
    for ending in (".safetensors", ".ckpt", ".pth", ".pt", ".bin"):
        name = name.removesuffix(ending)
    return name


def fields_of(values: Mapping[str, object]) -> dict[str, str]:
    """Values as an infotext has them; those that are None or empty are left out."""
    found = {}
    for name, value in values.items():
        if value is None or value == "" or isinstance(value, dict | list | bool):
            continue
        found[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return found


def lora_tag(name: object, model: object, text: object = None) -> str:
    """A tag for a LoRA, strength in the U-Net and in the text encoder."""
    first = model if isinstance(model, int | float) else 1.0
    second = text if isinstance(text, int | float) else first
    strengths = f"{second:g}" if first == second else f"{second:g}:{first:g}"
    return f"<lora:{model_name(name)}:{strengths}>"
