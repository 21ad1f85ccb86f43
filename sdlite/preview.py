"""Latents as a small picture without the decoder: a linear map, accurate enough to watch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlite.errors import RequestError
from sdlite.manifest import LatentSpace
from sdlite.types import Float32

UInt8 = npt.NDArray[np.uint8]

SD1_SCALE = 0.18215
SD1_ROWS = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
    (0.0, 0.0, 0.0),
)
"""The factors ComfyUI shows SD1 latents with, and no bias."""


@dataclass(frozen=True)
class LinearMap:
    """``rgb = latents @ weights + bias``, with rgb in -1..1."""

    weights: Float32
    """Float32 (channels, 3)."""
    bias: Float32
    """Float32 (3,)."""


def map_for(latent: LatentSpace) -> LinearMap | None:
    """The map of a model: its own, or SD1's where the latents are SD1's; None when unknown."""
    rows = latent.preview
    if not rows and latent.channels == 4 and abs(latent.scale - SD1_SCALE) < 1e-5:
        rows = SD1_ROWS
    if not rows:
        return None
    table = np.asarray(rows, np.float32)
    return LinearMap(table[:-1], table[-1])


def to_picture(latents: Float32, linear: LinearMap | None) -> UInt8:
    """One latent picture ``(channels, height, width)`` as uint8 ``(height, width, 3)``.

    Without a map the three strongest directions of these latents become red, green and blue: the
    shapes are right, the colours mean nothing.

    Raises:
        RequestError: the map is for another number of channels.
    """
    channels, height, width = latents.shape
    pixels = latents.reshape(channels, -1).T.astype(np.float32)
    if linear is None:
        rgb = _principal(pixels)
    elif len(linear.weights) != channels:
        raise RequestError(
            f"the preview map is for {len(linear.weights)} channels, the latents have {channels}"
        )
    else:
        rgb = pixels @ linear.weights + linear.bias
    levels: UInt8 = np.rint(np.clip(np.nan_to_num(rgb) * 127.5 + 127.5, 0, 255)).astype(np.uint8)
    return levels.reshape(height, width, 3)


def _principal(pixels: Float32) -> Float32:
    centred = np.nan_to_num(pixels) - np.nan_to_num(pixels).mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :3]  # strongest first
    # An axis has no sign of its own: the largest part of each is made positive, so that colours
    # do not flip from step to step.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    rgb = np.zeros((len(pixels), 3), np.float32)
    projected = centred @ directions
    rgb[:, : projected.shape[1]] = projected / (3 * projected.std(axis=0) + 1e-6)
    return rgb


def fit(latents: Float32, pictures: UInt8) -> tuple[tuple[float, ...], ...]:
    """The best linear map from latents to pictures, as ``LatentSpace.preview`` holds it.

    Args:
        latents: float32 (batch, channels, height, width), as the U-Net sees them.
        pictures: uint8 (batch, factor * height, factor * width, 3): the same, decoded.
    """
    batch, channels, height, width = latents.shape
    factor = pictures.shape[1] // height
    small = pictures.reshape(batch, height, factor, width, factor, 3).mean(axis=(2, 4))
    target = small.reshape(-1, 3) / 127.5 - 1
    pixels = latents.transpose(0, 2, 3, 1).reshape(-1, channels)
    known = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    table, *_ = np.linalg.lstsq(known, target, rcond=None)
    return tuple(tuple(round(float(value), 4) for value in row) for row in table)
