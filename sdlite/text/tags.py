"""Tags for extra networks: ``<lora:name:0.8>``, found and taken out of a prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sdlite.errors import RequestError

LORA_KINDS = ("lora", "lyco")
"""A1111 reads both as LoRA and its relatives."""
_TAG = re.compile(r"<(\w+):([^>]+)>")


@dataclass(frozen=True)
class Tag:
    """``<kind:argument:name=argument>``."""

    kind: str
    """``lora``, ``hypernet`` ..."""
    arguments: tuple[str, ...]
    """What follows the kind, cut at colons."""
    text: str
    """As typed."""


@dataclass(frozen=True)
class LoraTag:
    """One LoRA (or LyCORIS) to apply and how strongly."""

    name: str
    """File name without its ending, or the name in its metadata."""
    unet: float = 1.0
    """Strength in the U-Net."""
    text_encoder: float = 1.0
    """Strength in the text encoders."""
    rank: int | None = None
    """Ranks to keep (``dyn``); None keeps all."""


def split_tags(prompt: str) -> tuple[str, tuple[Tag, ...]]:
    """The prompt without its tags, and the tags in order."""
    tags = tuple(Tag(m[1], tuple(m[2].split(":")), m[0]) for m in _TAG.finditer(prompt))
    return _TAG.sub("", prompt), tags


def lora_tags(tags: Sequence[Tag]) -> tuple[LoraTag, ...]:
    """Those that name a LoRA, read as A1111 does: name, text strength (which the U-Net's follows),
    U-Net strength, ranks; each also as ``te=``, ``unet=``, ``dyn=``.

    Raises ``RequestError`` for a strength that is no number.
    """
    return tuple(_lora(tag) for tag in tags if tag.kind in LORA_KINDS)


def _lora(tag: Tag) -> LoraTag:
    pairs = [argument.split("=", 1) for argument in tag.arguments if "=" in argument]
    named = {name.strip(): value for name, value in pairs}
    places = [argument for argument in tag.arguments if "=" not in argument]
    given = dict(zip(("name", "te", "unet", "dyn"), places, strict=False)) | named

    def number(name: str, default: float) -> float:
        try:
            value = float(given[name]) if name in given else default
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RequestError(f"{tag.text}: {given[name]!r} is no number; e.g. <lora:name:0.8>")
        return value

    text_encoder = number("te", 1.0)
    rank = int(number("dyn", 0.0))
    return LoraTag(
        given.get("name", "").strip(), number("unet", text_encoder), text_encoder, rank or None
    )
