"""How weights change the features of a text: A1111's emphasis, ComfyUI's, compel's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdlite.text.attention import Span, parse_attention
from sdlite.text.comfyui import parse_comfyui
from sdlite.text.compel import parse_compel
from sdlite.types import Float32

LEAST_WEIGHT = 1e-5
"""Weights below count as this in compel's blend, where 0 would be infinite."""


@dataclass(frozen=True)
class Emphasis:
    """One way to read and apply weights."""

    name: str
    """A1111's name, or the program's whose way it is."""
    parse: Callable[[str], list[Span]]
    """Text to weighted spans."""
    scales: bool = False
    """Features are multiplied by the weights."""
    restores_mean: bool = False
    """Their mean is brought back afterwards."""
    leaves_empty: bool = False
    """Features move away from (or towards) those of the empty prompt instead."""
    blends: bool = False
    """What weighs less than 1 is also blended with the text without it."""


def _plain(text: str) -> list[Span]:
    return [(text, 1.0)]


_KNOWN = (
    Emphasis("Original", parse_attention, scales=True, restores_mean=True),
    Emphasis("No norm", parse_attention, scales=True),
    Emphasis("Ignore", parse_attention),
    Emphasis("None", _plain),
    Emphasis("ComfyUI", parse_comfyui, leaves_empty=True),
    Emphasis("compel", parse_compel, leaves_empty=True, blends=True),
)
BY_NAME = {emphasis.name: emphasis for emphasis in _KNOWN}


def scale(
    features: Float32, weights: Float32, counts: Sequence[int], restore_mean: bool
) -> Float32:
    """A1111's emphasis on the same chunk of one or more texts.

    A1111 takes the mean over the chunk of every text that a prompt changes between in a run.

    Args:
        features: ``(texts, tokens, width)``.
        weights: ``(texts, tokens)``.
        counts: how often each text counts in the mean.
        restore_mean: bring the mean back to what it was.
    """
    if (weights == 1.0).all():
        return features
    scaled = features * weights[:, :, None]
    if not restore_mean:
        return scaled
    before, after = (
        np.average(values.mean((1, 2), dtype=np.float64), weights=counts)
        for values in (features, scaled)
    )
    result: Float32 = scaled * np.float32(before / after)
    return result


def leave_empty(features: Float32, weights: Float32, empty: Float32) -> Float32:
    """ComfyUI's and compel's way: features that differ from the empty prompt's as much as asked.

    Args:
        features: ``(chunks, tokens, width)``.
        weights: ``(chunks, tokens)``.
        empty: features of the empty prompt, ``(tokens, width)``.
    """
    moved: Float32 = np.where(
        weights[:, :, None] == 1.0, features, (features - empty) * weights[:, :, None] + empty
    )
    return moved


def blend(features: Float32, without: Sequence[tuple[float, Float32]]) -> Float32:
    """compel's way to weigh less: mix with the features of the text that lacks a span.

    At weight 0.5 both count the same, at 0 only the text without the span does. compel masks the
    span in the text encoder by default; this is its other mode, which removes it.

    Args:
        features: of the whole text, ``(chunks, tokens, width)``.
        without: weight of a span, below 1, and features of the text without it.
    """
    shares = [1.0]
    shares += [math.tan((1.0 - max(w, LEAST_WEIGHT)) * math.pi / 2) for w, _ in without]
    total = sum(shares)
    result: Float32 = features * np.float32(shares[0] / total)
    for share, (_, other) in zip(shares[1:], without, strict=True):
        result = result + other * np.float32(share / total)
    return result
