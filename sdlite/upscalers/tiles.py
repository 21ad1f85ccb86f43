"""A network over a picture of any size: tiles that overlap and are blended into each other.

Memory is that of one tile and of the rows it lies in. Where the overlap reaches as far as the
network sees, the result is that of the whole picture at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlite.types import Float32

Bytes = npt.NDArray[np.uint8]
Network = Callable[[Float32], Float32]
"""``(1, channels, h, w)``, 0 to 1, to ``(1, channels, h * scale, w * scale)``."""
RAMP = 8
"""Pixels over which one tile goes over into the next, where all it needs lies in both."""
OVERLAP = 40
"""Most pixels two tiles share. A network that sees further is blended over half of them."""


@dataclass(frozen=True)
class Axis:
    """Tiles along one side of a picture."""

    length: int
    """Side of every tile, in input pixels."""
    starts: tuple[int, ...]
    """Where each begins."""

    @property
    def padded(self) -> int:
        """Side of the picture once it is filled up for whole tiles."""
        return self.starts[-1] + self.length

    def weights(self, index: int, scale: int, unsure: int) -> Float32:
        """How much each output row of a tile counts; over all tiles they add up to 1.

        Of every overlap the outer ``unsure`` pixels of a tile do not count at all.
        """
        weights = np.ones(self.length * scale, np.float32)
        if index > 0:
            weights *= self._ramp(index - 1, index, scale, unsure)
        if index + 1 < len(self.starts):
            weights *= 1 - self._ramp(index, index + 1, scale, unsure, before=True)
        return weights

    def _ramp(
        self, first: int, second: int, scale: int, unsure: int, before: bool = False
    ) -> Float32:
        """From 0 to 1 in the middle of the overlap of two tiles, along one of them."""
        start, end = self.starts[second], self.starts[first] + self.length
        width = max(end - start - 2 * unsure, 1)
        middle = (start + end) / 2 - self.starts[first if before else second]
        places = (np.arange(self.length * scale) + 0.5) / scale
        return np.clip((places - middle) / width + 0.5, 0, 1).astype(np.float32)


def overlap_for(reach: int) -> tuple[int, int]:
    """Pixels that tiles share for a network that sees so far, and how many of them are unsure."""
    if 2 * reach + RAMP <= OVERLAP:
        return 2 * reach + RAMP, reach
    return OVERLAP, OVERLAP // 4


def cut(size: int, most: int, overlap: int, multiple: int) -> Axis:
    """The fewest tiles of at most ``most`` pixels that cover ``size``, all of one length.

    Neighbours overlap by at least ``overlap``; lengths and starts are multiples of ``multiple``.
    """
    whole = -(-size // multiple) * multiple
    most = max(most // multiple, 1) * multiple
    if whole <= most:
        return Axis(whole, (0,))
    overlap = min(-(-overlap // multiple) * multiple, (most // 2) // multiple * multiple)
    step = max(most - overlap, multiple)
    count = -(-(whole - overlap) // step)
    length = -(-(whole + (count - 1) * overlap) // (count * multiple)) * multiple
    places = np.linspace(0, whole - length, count)
    return Axis(length, tuple(int(place // multiple) * multiple for place in places))


def run_tiles(
    network: Network,
    pixels: Bytes,
    down: Axis,
    across: Axis,
    scale: int,
    unsure: int,
    on_tile: Callable[[int, int], object] | None = None,
) -> Bytes:
    """Enlarge a picture.

    Args:
        network: what enlarges a tile.
        pixels: uint8 ``(height, width, channels)``.
        down: tiles from top to bottom; the last row of pixels is mirrored where they need more.
        across: the same from left to right.
        scale: pixels out for one pixel in.
        unsure: pixels along the inner edges of tiles that are thrown away.
        on_tile: called with tiles done and all tiles, after each.

    Returns:
        uint8 ``(height * scale, width * scale, channels)``.
    """
    height, width, channels = pixels.shape
    mirrored = np.pad(
        pixels, ((0, down.padded - height), (0, across.padded - width), (0, 0)), "symmetric"
    )
    result = np.empty((height * scale, width * scale, channels), np.uint8)
    total, done = len(down.starts) * len(across.starts), 0
    left_over = np.zeros((channels, 0, across.padded * scale), np.float32)
    for row, top in enumerate(down.starts):
        band = np.zeros((channels, down.length * scale, across.padded * scale), np.float32)
        for column, left in enumerate(across.starts):
            tile = mirrored[top : top + down.length, left : left + across.length]
            taken = np.ascontiguousarray(tile.transpose(2, 0, 1)[None], np.float32) / np.float32(
                255
            )
            made = network(taken)[0]
            weights = across.weights(column, scale, unsure)
            band[:, :, left * scale : (left + across.length) * scale] += made * weights
            done += 1
            if on_tile is not None:
                on_tile(done, total)
        band *= down.weights(row, scale, unsure)[:, None]
        band[:, : left_over.shape[1]] += left_over
        last = row + 1 == len(down.starts)
        end = down.length if last else down.starts[row + 1] - top
        left_over = band[:, end * scale :]
        ready = band[:, : end * scale, : width * scale]
        into = result[top * scale : (top + end) * scale]
        into[:] = _to_bytes(ready)[: len(into)]
    return result


def _to_bytes(values: Float32) -> Bytes:
    scaled = np.clip(values * np.float32(255), 0, 255)
    result: Bytes = np.rint(scaled).astype(np.uint8).transpose(1, 2, 0)
    return result
