"""Step noise read off a Brownian path, as k-diffusion's SDE samplers and A1111 take it.

The path of an image depends on its seed and on the ends of the schedule, not on where it is asked:
values are found by halving [sigma_min, sigma_max] down to a point and drawing a Brownian bridge at
every midpoint, each from a seed of its own (torchsde's ``BrownianTree``). So a seed gives A1111's
picture, and more steps refine the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sdlite.choices import find_rng
from sdlite.sampling.rng import GENERATORS, BatchNoise
from sdlite.sampling.variation import Generator, Variation
from sdlite.types import Float32

Float64 = npt.NDArray[np.float64]

DIGITS = 6
"""Decimals of sigma the tree tells apart: torchsde's tolerance of 1e-6."""
_POOL = 24
"""Pool size torchsde gives numpy's ``SeedSequence``."""


class BrownianPath:
    """One image's Brownian path between two sigmas.

    Args:
        generator: used up for this path.
        seed: of the image.
        low: where the path starts at 0.
        high: where it ends.
        count: values of one image.
    """

    def __init__(
        self, generator: Generator, seed: int, low: float, high: float, count: int
    ) -> None:
        self._generator, self._seed, self._count = generator, seed, count
        self._low, self._high = round(low, DIGITS), round(high, DIGITS)
        root = np.random.SeedSequence(seed, pool_size=_POOL)
        self._end = self._normal(root) * math.sqrt(self._high - self._low)
        self._known: dict[float, Float64] = {}

    def _normal(self, node: np.random.SeedSequence) -> Float64:
        self._generator.restart(int(node.generate_state(1)[0]))
        return self._generator.normal(self._count).astype(np.float64)

    def at(self, sigma: float) -> Float64:
        """The path at ``sigma``, shape (count,); beyond the ends the nearest end."""
        point = min(max(round(sigma, DIGITS), self._low), self._high)
        if point not in self._known:
            # An interval starts where the one before ended: no older point is asked for again.
            kept = list(self._known.items())[-1:]
            self._known = {**dict(kept), point: self._descend(point)}
        return self._known[point]

    def _descend(self, point: float) -> Float64:
        """Halve the interval that holds ``point`` until it is an end."""
        start, end, key, depth = self._low, self._high, 0, 0
        at_start, rise = np.zeros(self._count), self._end
        while point not in (start, end):
            middle = round(0.5 * (end + start), DIGITS)
            left, right, width = middle - start, end - middle, end - start
            node = np.random.SeedSequence(self._seed, spawn_key=(key, depth), pool_size=_POOL)
            bridge = self._normal(node) * math.sqrt(left * right / width)
            half = rise * (left / width) + bridge
            if point <= middle:
                end, rise, key = middle, half, 2 * key
            else:
                start, at_start = middle, at_start + half
                rise, key = rise - half, 2 * key + 1
            depth += 1
        return at_start if point == start else at_start + rise


class BrownianNoise:
    """``types.Noise`` whose first draw is the initial latents and whose others are path increments.

    A variation changes the first draw only.

    An increment is divided by the square root of its interval, so it has unit variance; increments
    of intervals that do not overlap are independent. Falling sigmas walk the path backwards.
    """

    def __init__(
        self,
        rng: str,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        low: float,
        high: float,
        variation: Variation | None = None,
        before: int = 0,
    ) -> None:
        self._latents = BatchNoise(rng, seeds, shape, variation, before)
        self._shape = shape
        make, count = GENERATORS[find_rng(rng)], math.prod(shape)
        self._paths = [BrownianPath(make(seed), seed, low, high, count) for seed in seeds]
        self._position = 0

    @property
    def position(self) -> int:
        """Draws taken so far."""
        return self._position

    def seek(self, position: int) -> None:
        """Go to the state after ``position`` draws."""
        self._position = position

    def __call__(self, sigma: float, sigma_next: float) -> Float32:
        """Draw, shape (images, channels, height, width)."""
        self._position += 1
        if self._position == 1:
            self._latents.seek(0)
            return self._latents(sigma, sigma_next)
        scale = abs(sigma_next - sigma) ** -0.5
        ends = [(path.at(sigma), path.at(sigma_next)) for path in self._paths]
        drawn = np.stack([(end - start) * scale for start, end in ends])
        return drawn.astype(np.float32).reshape(-1, *self._shape)
