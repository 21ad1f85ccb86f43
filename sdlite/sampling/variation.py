"""How the noise of an image may depart from its seed's: what A1111 calls Extra seed, and ENSD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sdlite.types import Array, Float32

NEARLY_PARALLEL = 0.9995


@dataclass(frozen=True)
class Variation:
    """Departures from the noise of a seed; with nothing given there are none."""

    seeds: tuple[int, ...] = ()
    """Variation seed of each image."""
    strength: float = 0.0
    """How far to go from the noise of the seed, 0, to that of the variation seed, 1."""
    resize_from: tuple[int, int] | None = None
    """Height and width in cells whose noise stands in the middle of the image's."""
    seed_delta: int = 0
    """What is added to the seed for all noise but the first (A1111's ENSD)."""


class Generator(Protocol):
    """A stream of standard normal values, built from a seed."""

    def restart(self, seed: int) -> None:
        """Become the generator of ``seed``; far cheaper than building one."""
        ...

    def normal(self, count: int) -> Float32:
        """The next ``count`` values, float32, shape (count,)."""
        ...


def first_noise(
    make: Callable[[int], Generator],
    generator: Generator,
    seed: int,
    shape: tuple[int, int, int],
    variation: Variation,
    image: int,
    before: int = 0,
) -> Float32:
    """The first noise of an image, shape (channels, height, width), as A1111 draws it.

    Args:
        make: builds a generator of a seed.
        generator: the image's, fresh; one noise of ``shape`` is taken from it.
        seed: the image's.
        shape: channels, height and width in cells.
        variation: departures.
        image: number of the image, for its variation seed.
        before: numbers of a seed's stream that come before its first noise.
    """
    own = generator.normal(int(np.prod(shape))).reshape(shape)
    small = shape if variation.resize_from is None else (shape[0], *variation.resize_from)
    noise = own if small == shape else _noise_of(make, seed, small, before)
    if variation.strength > 0.0:
        other = _noise_of(make, variation.seeds[image], small, before)
        noise = slerp(variation.strength, noise, other)
    return noise if small == shape else _in_the_middle(own, noise)


def _noise_of(
    make: Callable[[int], Generator], seed: int, shape: tuple[int, int, int], before: int
) -> Float32:
    return begun(make, seed, before).normal(int(np.prod(shape))).reshape(shape)


def begun(make: Callable[[int], Generator], seed: int, before: int) -> Generator:
    """A seed's generator, from which so many numbers were taken."""
    generator = make(seed)
    if before:
        generator.normal(before)
    return generator


def slerp(share: float, low: Float32, high: Float32) -> Float32:
    """``low`` turned towards ``high``, both (channels, height, width).

    Spherical interpolation as in A1111: each column of each channel is a vector of its own. Nearly
    equal noises are mixed evenly instead, and there its weights are the other way round.
    """
    a, b = low.astype(np.float64), high.astype(np.float64)
    a_unit = a / np.linalg.norm(a, axis=1, keepdims=True)
    b_unit = b / np.linalg.norm(b, axis=1, keepdims=True)
    cosine = np.clip((a_unit * b_unit).sum(axis=1, keepdims=True), -1.0, 1.0)
    if cosine.mean() > NEARLY_PARALLEL:
        return (a * share + b * (1.0 - share)).astype(np.float32)
    angle: Array = np.arccos(cosine)
    sine = np.sin(angle)
    # Single parallel columns, which are turned nowhere, A1111 divides by 0; here they are mixed.
    mixed = a * (1.0 - share) + b * share
    turned = np.sin((1.0 - share) * angle) * a + np.sin(share * angle) * b
    return np.where(sine > 1e-6, turned / np.maximum(sine, 1e-6), mixed).astype(np.float32)


def _in_the_middle(noise: Float32, small: Float32) -> Float32:
    """``noise`` with ``small`` laid over its middle, cut where that is larger."""
    result = noise.copy()
    _, height, width = noise.shape
    _, small_height, small_width = small.shape
    (to_y, from_y, rows) = _overlap(height, small_height)
    (to_x, from_x, columns) = _overlap(width, small_width)
    part = small[:, from_y : from_y + rows, from_x : from_x + columns]
    result[:, to_y : to_y + rows, to_x : to_x + columns] = part
    return result


def _overlap(side: int, small: int) -> tuple[int, int, int]:
    """Start in the large, start in the small, and length; rounded down as A1111 does."""
    offset = (side - small) // 2
    return max(offset, 0), max(-offset, 0), small if offset >= 0 else small + 2 * offset
