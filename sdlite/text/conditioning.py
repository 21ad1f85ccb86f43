"""Prompts to conditioning: the one place that knows one family's text encoders from another's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlite.text.tokenizer import ClipTokenizer
from sdlite.types import Float32

SYNTAX = re.compile(r"\([^()]*:\s*[\d.]+\s*\)|<(?:lora|lyco|hypernet):[^>]*>")
"""``(word:1.2)`` and ``<lora:name:1>`` of A1111's prompt language, which is not spoken yet."""
EncodeText = Callable[[npt.NDArray[np.int64]], Float32]
"""Token ids ``(batch, tokens)`` to features ``(batch, tokens, width)``."""


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net is told about a prompt and its negative."""

    cond: Float32
    """``(1, tokens, width)`` features of the prompt."""
    uncond: Float32 | None
    """The same of the negative prompt; None without guidance."""
    notes: tuple[str, ...]
    """What the user should know, e.g. the part of a prompt that was cut off."""


def condition(
    encode_text: EncodeText,
    tokenizer: ClipTokenizer,
    prompt: str,
    negative_prompt: str,
    guided: bool,
) -> Conditioning:
    """Encode a prompt, and with guidance its negative, in one call."""
    named = [("prompt", prompt)]
    if guided:
        named.append(("negative prompt", negative_prompt))
    tokens = [tokenizer.encode(text) for _, text in named]
    notes = tuple(
        f"{name} is longer than the text encoder reads; ignored from {_start(cut.dropped)!r} on"
        for (name, _), cut in zip(named, tokens, strict=True)
        if cut.dropped
    )
    notes += tuple(
        f"{name} has {match[0]!r}: weights and <...:...> tags are read as plain words so far"
        for name, text in named
        if (match := SYNTAX.search(text))
    )
    features = encode_text(np.stack([cut.ids for cut in tokens]))
    return Conditioning(features[:1], features[1:2] if guided else None, notes)


def _start(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
