"""Random numbers that other programs make too: torch on the CPU, NVIDIA's Philox, numpy.

A generator belongs to one image and one seed, so image i of a batch gets, to the bit, the noise it
would get alone. Its first draw is the initial latents, later draws are the samplers' step noise:
the order in which A1111 and diffusers draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sdlite.choices import find_rng
from sdlite.errors import RequestError
from sdlite.sampling.variation import Generator, Variation, begun, first_noise
from sdlite.types import Float32

MAX_SEED = 2**64 - 1


class TorchGenerator:
    """torch's CPU generator: ``torch.randn`` in float32 after ``manual_seed(seed)``.

    MT19937 seeded with the low 32 bits of the seed (torch ignores the others). Draws of 16 values
    or more turn 24-bit uniforms into normals by Box-Muller in blocks of 16: the first eight are
    radii, the others angles. A remainder is made by drawing the last 16 values again. Shorter
    draws use 53-bit uniforms and keep the second value of a pair for the next short draw.
    The stream is torch's bit for bit; the normals agree within 1e-6 with its kernel for AVX2,
    whose logarithm, sine and cosine round differently. (Its kernel for other processors rounds
    the angle differently and is up to 2.5e-6 away from both.)
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.RandomState(0)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """As ``manual_seed(seed)``."""
        self._bits.seed(seed & 0xFFFFFFFF)
        self._spare: float | None = None

    def words(self, count: int) -> npt.NDArray[np.uint32]:
        """The next 32-bit words of the stream."""
        # numpy gives a range that is all of uint32 the words as they come.
        return self._bits.randint(0, 2**32, count, dtype=np.uint32)

    def normal(self, count: int) -> Float32:
        """As ``torch.randn(count)``."""
        if count < 16:
            return np.array([self._single() for _ in range(count)], np.float32)
        whole = count - count % 16
        uniforms = self._uniforms(count)
        values = np.empty(count, np.float32)
        values[:whole] = _blocks(uniforms[:whole])
        if whole < count:
            values[-16:] = _blocks(self._uniforms(16))
        return values

    def _uniforms(self, count: int) -> npt.NDArray[np.float64]:
        words = self.words(count) & np.uint32(0xFFFFFF)
        return words.astype(np.float64) * 2.0**-24

    def _single(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        high_0, low_0, high_1, low_1 = (int(word) for word in self.words(4))
        mask = (1 << 53) - 1
        angle = 2.0 * np.pi * (((high_0 << 32 | low_0) & mask) * 2.0**-53)
        radius = np.sqrt(-2.0 * np.log1p(-(((high_1 << 32 | low_1) & mask) * 2.0**-53)))
        self._spare = float(radius * np.sin(angle))
        return float(radius * np.cos(angle))


def _blocks(uniforms: npt.NDArray[np.float64]) -> Float32:
    """Box-Muller over blocks of 16, which ``uniforms`` must fill.

    The angle is rounded to float32 before its sine is taken: torch does, and it is most of what
    an exact computation would differ by.
    """
    blocks = uniforms.reshape(-1, 2, 8).astype(np.float32)
    radius = np.sqrt(np.float32(-2.0) * np.log1p(-blocks[:, 0]))
    angle = (np.float32(2.0 * np.pi) * blocks[:, 1]).astype(np.float64)
    pair = np.empty_like(blocks)
    pair[:, 0] = radius * np.cos(angle)
    pair[:, 1] = radius * np.sin(angle)
    return pair.reshape(-1)


_PHILOX_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


class PhiloxGenerator:
    """``torch.randn`` on an NVIDIA card, as A1111's random source ``NV`` imitates it.

    Philox 4x32-10 (Salmon et al. 2011): every value has its own counter (number of the draw, place
    in the draw), the key is the seed; the first two of its four words make one normal by
    Box-Muller in float64 with constants of float32.
    """

    _INVERSE = float(np.float32(2.3283064e-10))
    _INVERSE_2PI = float(np.float32(2.3283064e-10 * 6.2831855))

    def __init__(self, seed: int) -> None:
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Key of ``seed``, first draw."""
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        self._draws = 0

    def normal(self, count: int) -> Float32:
        """As A1111's ``randn`` of ``count`` values."""
        place = np.arange(count, dtype=np.uint64)
        words = self._words(place)
        self._draws += 1
        u = words[0] * self._INVERSE + self._INVERSE / 2
        v = words[1] * self._INVERSE_2PI + self._INVERSE_2PI / 2
        return np.asarray(np.sqrt(-2.0 * np.log(u)) * np.sin(v), np.float32)

    def _words(self, place: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], ...]:
        """First two output words of each counter."""
        low_half, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
        c0 = np.full_like(place, self._draws)
        c1, c2, c3 = np.zeros_like(place), place, np.zeros_like(place)
        key_0, key_1 = self._key
        for _ in range(10):
            p0, p1 = c0 * _PHILOX_MULTIPLIERS[0], c2 * _PHILOX_MULTIPLIERS[1]
            c0 = (p1 >> shift) ^ c1 ^ np.uint64(key_0)
            c2 = (p0 >> shift) ^ c3 ^ np.uint64(key_1)
            c1, c3 = p1 & low_half, p0 & low_half
            key_0 = (key_0 + _PHILOX_KEY_STEPS[0]) & 0xFFFFFFFF
            key_1 = (key_1 + _PHILOX_KEY_STEPS[1]) & 0xFFFFFFFF
        return c0, c1


class NumpyGenerator:
    """numpy's ``RandomState(seed).standard_normal``, rounded to float32.

    ``RandomState`` takes 32-bit seeds; a larger one is given as its low and high word.
    """

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(0)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """As ``RandomState(seed)``."""
        self._state.seed(seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32])

    def normal(self, count: int) -> Float32:
        """As ``standard_normal(count)``."""
        return np.asarray(self._state.standard_normal(count), np.float32)


GENERATORS: dict[str, Callable[[int], Generator]] = {
    "cpu": TorchGenerator,
    "nv": PhiloxGenerator,
    "numpy": NumpyGenerator,
}


class BatchNoise:
    """``types.Noise`` of a batch: one generator an image, all of the same kind."""

    def __init__(
        self,
        rng: str,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        variation: Variation | None = None,
        before: int = 0,
    ) -> None:
        self._variation = variation or Variation()
        self._before = before
        for seed in (*seeds, *self._variation.seeds):
            if not 0 <= seed <= MAX_SEED:
                raise RequestError(f"seed {seed} is out of range: 0 to {MAX_SEED}")
        self._make = GENERATORS[find_rng(rng)]
        self._seeds = tuple(seeds)
        self._shape = shape
        self._rewind()

    def _rewind(self) -> None:
        self._generators = [begun(self._make, seed, self._before) for seed in self._seeds]
        self._position = 0

    @property
    def position(self) -> int:
        """Draws taken so far."""
        return self._position

    def seek(self, position: int) -> None:
        """Go to the state after ``position`` draws."""
        if position < self._position:
            self._rewind()
        while self._position < position:
            self._draw()

    def __call__(self, sigma: float, sigma_next: float) -> Float32:
        """Draw, shape (images, channels, height, width); the sigmas do not matter here."""
        return self._draw()

    def _draw(self) -> Float32:
        self._position += 1
        if self._position == 1:
            return self._draw_first()
        count = int(np.prod(self._shape))
        return np.stack([g.normal(count).reshape(self._shape) for g in self._generators])

    def _draw_first(self) -> Float32:
        variation = self._variation
        drawn = [
            first_noise(self._make, generator, seed, self._shape, variation, image, self._before)
            for image, (generator, seed) in enumerate(
                zip(self._generators, self._seeds, strict=True)
            )
        ]
        if variation.seed_delta:
            later = [(seed + variation.seed_delta) % (MAX_SEED + 1) for seed in self._seeds]
            self._generators = [self._make(seed) for seed in later]
        return np.stack(drawn)


def batch_noise(
    rng: str,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    variation: Variation | None = None,
    before: int = 0,
) -> BatchNoise:
    """Noise for images with these seeds.

    Args:
        rng: ``cpu``, ``nv`` or ``numpy``, in any usual spelling.
        seeds: one an image, 0 to 2**64-1.
        shape: (channels, height, width) of one image's latents.
        variation: departures from the seeds.
        before: values another draw took of each image's generator before the first of these.

    Raises:
        UnknownName: no such generator.
        RequestError: a seed is out of range.
    """
    return BatchNoise(rng, seeds, shape, variation, before)
