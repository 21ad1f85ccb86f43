"""What U-Nets are told beside the text: SDXL's sizes, and the guidance scale of LCM's.

The one place that knows one family's text encoders from another's is ``ENCODINGS``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sdlite.errors import PackageInvalid
from sdlite.manifest import Manifest
from sdlite.package import Package
from sdlite.text.tokenizer import ClipTokenizer
from sdlite.types import Float32

GUIDANCE_FACTOR = 1000.0
SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Aesthetic scores the refiner is told for the prompt and its negative, as everybody's tools do."""


@dataclass(frozen=True)
class Encoding:
    """How a family's prompts are encoded."""

    encoders: tuple[str, ...]
    """Components in order; their features are joined along the width."""
    clip_skip: int
    """The layer, counted from the end, that the U-Net was trained with."""
    sizes: Literal["none", "target", "score"] = "none"
    """Whether it is told sizes: original, crop and target, or with a score instead of a target."""


ENCODINGS = {
    "sd1": Encoding(("text_encoder",), 1),
    "sd2": Encoding(("text_encoder",), 1),
    "sdxl": Encoding(("text_encoder", "text_encoder_2"), 2, "target"),
    "sdxl-refiner": Encoding(("text_encoder_2",), 2, "score"),
}
"""By family. SD2's last layer is left out when it is exported, so its last is the one in use."""


@dataclass(frozen=True)
class Labels:
    """What SDXL's U-Nets are told beside text features (Podell et al. 2023)."""

    sizes: Float32
    """``(1, n)`` for the prompt: pixels, height before width."""
    negative_sizes: Float32
    """``(1, n)`` for the negative prompt."""
    zeros_for_empty: bool
    """Whether an empty negative prompt is zeros instead of the encoders' answer."""


def encoding_of(manifest: Manifest) -> Encoding:
    """How the package's prompts are encoded."""
    return ENCODINGS[manifest.family]


def labels_of(manifest: Manifest, width: int, height: int) -> Labels | None:
    """Labels for pictures of a size that are neither cropped nor scaled; None without labels."""
    kind = encoding_of(manifest).sizes
    if kind == "none":
        return None
    original = (height, width, 0, 0)
    ends: tuple[tuple[float, ...], tuple[float, ...]] = ((height, width), (height, width))
    if kind == "score":
        ends = ((SCORE,), (NEGATIVE_SCORE,))
    sizes, negative = (np.array([[*original, *end]], np.float32) for end in ends)
    return Labels(sizes, negative, manifest.force_zeros_for_empty_prompt)


def guidance_embedding(guidance: float, width: int) -> Float32:
    """The guidance scale as LCM's U-Nets are told it, float32 ``(1, width)``.

    The sinusoids of a timestep of ``1000 * (guidance - 1)``, sines first (Luo et al. 2023).
    """
    half = width // 2
    steps = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000.0) / (half - 1))
    angles = np.float32(GUIDANCE_FACTOR * (guidance - 1.0)) * np.exp(steps)
    row = np.zeros((1, width), np.float32)
    row[0, :half], row[0, half : 2 * half] = np.sin(angles), np.cos(angles)
    return row


def tokenizers_of(package: Package) -> list[ClipTokenizer]:
    """The tokenizer of each text encoder; raises ``PackageInvalid`` when they are not as many."""
    tokenizers = [
        ClipTokenizer.from_package(package, index)
        for index in range(len(package.manifest.tokenizers))
    ]
    if len(tokenizers) != len(encoding_of(package.manifest).encoders):
        raise PackageInvalid(
            f"{package.root} has {len(tokenizers)} tokenizers, family "
            f"{package.manifest.family} needs {len(encoding_of(package.manifest).encoders)}; "
            "export it again"
        )
    return tokenizers
