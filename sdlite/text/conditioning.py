"""Prompts to conditioning: the one place that knows one family's text encoders from another's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlite.text.tokenizer import ClipTokenizer
from sdlite.types import Cond, Conditions, Float32, StepConds

SYNTAX = re.compile(r"\([^()]*:\s*[\d.]+\s*\)|<(?:lora|lyco|hypernet):[^>]*>")
"""``(word:1.2)`` and ``<lora:name:1>`` of A1111's prompt language, which is not spoken yet."""
EncodeText = Callable[[npt.NDArray[np.int64]], Float32]
"""Token ids ``(batch, tokens)`` to features ``(batch, tokens, width)``."""


Timeline = tuple[tuple[int, Cond], ...]
"""``(last step, cond)`` in order: a cond is used up to and with that 0-based step, the last one to
the end of the run."""


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net is told about a prompt and its negative, all through a run."""

    parts: tuple[tuple[Timeline, float], ...]
    """The prompts joined by AND and their weights."""
    negative: Timeline | None
    """The negative prompt; None where guidance never needs it."""
    notes: tuple[str, ...] = ()
    """What the user should know, e.g. the part of a prompt that was cut off."""

    def at(self, step: int) -> StepConds:
        """What is drawn in a step, counted from 0."""
        return StepConds(
            tuple((_at(timeline, step), weight) for timeline, weight in self.parts),
            None if self.negative is None else _at(self.negative, step),
        )

    def over(self, sigmas: Float32) -> Conditions:
        """What is drawn at a noise level of a run; ``sigmas`` has n+1 entries and falls to 0.

        A level belongs to the step that starts at or last above it, so that what a sampler asks
        for between two levels is drawn as the step it lies in, wherever the run was resumed.
        """
        starts = -sigmas[:-1].astype(np.float64)

        def conditions(sigma: float) -> StepConds:
            step = int(np.searchsorted(starts, -sigma, side="right")) - 1
            return self.at(max(step, 0))

        return conditions


def _at(timeline: Timeline, step: int) -> Cond:
    for last, cond in timeline:
        if step <= last:
            return cond
    return timeline[-1][1]


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
    negative = ((0, Cond(features[1:2])),) if guided else None
    return Conditioning(((((0, Cond(features[:1])),), 1.0),), negative, notes)


def _start(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
