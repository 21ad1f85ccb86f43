"""Weights in 8 bits: one step for each output channel, numbers from -127 to 127."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sdlite.types import Float32

Int8 = npt.NDArray[np.int8]

LIMIT = 127
TINY = np.float32(1e-12)
"""Least step, for channels whose weights are all 0."""


def steps_of(value: Float32) -> Float32:
    """The step of each output channel (first axis) with which its largest weight is 127."""
    flat = value.reshape(len(value), -1)
    largest = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    steps: Float32 = np.maximum(largest / np.float32(LIMIT), TINY).astype(np.float32, copy=False)
    return steps


def to_int8(value: Float32, steps: Float32) -> Int8:
    """``value / steps`` rounded to the nearest, output channels first."""
    scaled = value / _along(steps, value.ndim)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -LIMIT, LIMIT, out=scaled).astype(np.int8)


def from_int8(stored: npt.NDArray[np.int8], steps: Float32) -> Float32:
    """Numbers in 8 bits as float32, output channels first."""
    return stored.astype(np.float32) * _along(steps, stored.ndim)


def _along(steps: Float32, rank: int) -> Float32:
    return steps.reshape(-1, *(1,) * (rank - 1))
