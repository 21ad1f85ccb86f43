"""Weights as indices into a palette of 16, 64 or 256 values: 4, 6 or 8 bits each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlite.types import Array

BITS = (4, 6, 8)
"""Bits an index may have."""
ROUNDS = 100
"""Most rounds of k-means; it settles after a few dozen."""
PIECE = 1 << 22
"""Indices packed at a time; a multiple of 8, so that pieces end on whole bytes."""


@dataclass(frozen=True)
class Palette:
    """A tensor whose values are few."""

    shape: tuple[int, ...]
    """Of the tensor."""
    colours: npt.NDArray[np.float16]
    """The values, ascending, ``2 ** bits`` of them."""
    indices: npt.NDArray[np.uint8]
    """Places in ``colours``, row by row, packed from the lowest bit of the first byte on."""

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return len(self.colours).bit_length() - 1


def palettise(array: Array, bits: int) -> Palette:
    """The nearest tensor of at most ``2 ** bits`` different values, by k-means (Lloyd 1982).

    A float16 tensor has at most 65,536 different values, so rounds run over a histogram: their time
    does not depend on the tensor's size. ``array`` is taken as float16.
    """
    flat = np.ascontiguousarray(array, np.float16).reshape(-1)
    counts = np.bincount(flat.view(np.uint16), minlength=1 << 16)
    patterns = np.flatnonzero(counts).astype(np.uint16)
    values = patterns.view(np.float16).astype(np.float64)
    order = np.argsort(values, kind="stable")
    values, weights = values[order], counts[patterns[order]].astype(np.float64)
    colours = _means(values, weights, 1 << bits).astype(np.float16)
    middles = (colours[:-1].astype(np.float64) + colours[1:]) / 2
    table = np.zeros(1 << 16, np.uint8)
    table[patterns[order]] = np.searchsorted(middles, values)
    packed = [
        pack(table[flat[start : start + PIECE].view(np.uint16)], bits)
        for start in range(0, flat.size, PIECE)
    ]
    return Palette(array.shape, colours, np.concatenate(packed))


def pack(indices: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Indices one after the other, ``bits`` each, lowest bits first."""
    spread = np.unpackbits(indices[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(spread.reshape(-1), bitorder="little")


def _means(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.float64]:
    """``count`` ascending means of ascending weighted values."""
    if len(values) <= count:
        return np.pad(values, (0, count - len(values)), mode="edge")
    # The best quantiser's points lie as dense as the cube root of the values (Panter, Dite 1951).
    widths = np.gradient(values)
    density = np.cumsum(np.cbrt(weights / np.maximum(widths, 1e-12)) * widths)
    shares = (np.arange(count) + 0.5) / count * density[-1]
    means: npt.NDArray[np.float64] = np.interp(shares, density, values)
    total = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * values)])
    for _ in range(ROUNDS):
        inner = np.searchsorted(values, (means[:-1] + means[1:]) / 2)
        bounds = np.concatenate([[0], inner, [len(values)]])
        mass = np.diff(total[bounds])
        moved = np.where(mass > 0, np.diff(moment[bounds]) / np.maximum(mass, 1.0), means)
        if np.array_equal(moved, means):
            break
        means = moved
    return means
