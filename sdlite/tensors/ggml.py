"""GGML's block formats: weights in groups of 32 or 256 that share scales, back to float32.

The layouts are those of ggml's ``ggml-common.h``. In each of these functions a row is one block as
it lies in the file (uint8), and the result has a row of float32 for every block. Nibbles are
stored halves first: the low four bits of the bytes of a group are its first half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sdlite.types import Float32

Bytes: TypeAlias = NDArray[np.uint8]

SLAB = 1 << 12
"""Blocks that are widened at once, which bounds what is needed beside the result."""


@dataclass(frozen=True)
class BlockFormat:
    """How a group of weights is stored."""

    name: str
    """ggml's name, in lower case."""
    count: int
    """Weights in a block."""
    size: int
    """Bytes of a block."""
    widen: Callable[[Bytes], Float32]
    """Blocks (n, size) to weights (n, count)."""

    def read(self, raw: Bytes) -> Float32:
        """Weights of whole blocks that lie one after another, one-dimensional."""
        blocks = raw.reshape(-1, self.size)
        out = np.empty((len(blocks), self.count), np.float32)
        for start in range(0, len(blocks), SLAB):
            out[start : start + SLAB] = self.widen(blocks[start : start + SLAB])
        return out.reshape(-1)


def _half(blocks: Bytes, at: int) -> Float32:
    """The float16 at a byte of every block, as a column."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _bits(packed: Bytes, width: int, *shifts: int) -> Bytes:
    """Fields of ``width`` bits at ``shifts`` of each byte: a new axis before the last."""
    at = np.array(shifts, np.uint8)[:, None]
    fields: Bytes = (packed[..., None, :] >> at) & np.uint8((1 << width) - 1)
    return fields


def _nibbles(packed: Bytes) -> Bytes:
    """(n, bytes) to (n, 2 * bytes)."""
    return _bits(packed, 4, 0, 4).reshape(len(packed), -1)


def _fifth(packed: Bytes) -> Bytes:
    """One bit for each of 32 weights, at its place in a nibble's five bits."""
    bits: Bytes = np.unpackbits(packed, axis=1, bitorder="little") * np.uint8(16)
    return bits


def _q4_0(b: Bytes) -> Float32:
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Float32:
    return _half(b, 0) * _nibbles(b[:, 4:]) + _half(b, 2)


def _q5_0(b: Bytes) -> Float32:
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _fifth(b[:, 2:6])).astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Float32:
    return _half(b, 0) * (_nibbles(b[:, 8:]) | _fifth(b[:, 4:8])) + _half(b, 2)


def _q8_0(b: Bytes) -> Float32:
    return _half(b, 0) * b[:, 2:].view(np.int8)


def _scaled(scale: Float32, values: Float32, offset: Float32 | None = None) -> Float32:
    """Groups (n, groups * width) with a scale, and an offset to take away, for each group."""
    groups = values.reshape(len(values), scale.shape[1], -1) * scale[..., None]
    if offset is not None:
        groups -= offset[..., None]
    return groups.reshape(len(values), -1)


def _q2_k(b: Bytes) -> Float32:
    scales = b[:, :16]
    values = _bits(b[:, 16:80].reshape(-1, 2, 32), 2, 0, 2, 4, 6).reshape(-1, 256)
    least = _half(b, 82) * (scales >> 4)
    return _scaled(_half(b, 80) * (scales & 15), values.astype(np.float32), least)


def _q3_k(b: Bytes) -> Float32:
    low = _nibbles(b[:, 96:104])
    high = _bits(b[:, 104:108], 2, 0, 2, 4, 6).reshape(-1, 16)
    scales = (low | high << 4).astype(np.float32) - 32
    values = _bits(b[:, 32:96].reshape(-1, 2, 32), 2, 0, 2, 4, 6).reshape(-1, 256)
    top = _bits(b[:, :32], 1, *range(8)).reshape(-1, 256)
    return _scaled(_half(b, 108) * scales, (values | top << 2).astype(np.float32) - 4)


def _scale_and_least(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight offsets of six bits each out of twelve bytes."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, rest & 15 | (first >> 6) << 4], 1)
    return scales, np.concatenate([second & 63, rest >> 4 | (second >> 6) << 4], 1)


def _q4_k(b: Bytes) -> Float32:
    scales, least = _scale_and_least(b[:, 4:16])
    values = _bits(b[:, 16:].reshape(-1, 4, 32), 4, 0, 4).reshape(-1, 256)
    return _scaled(_half(b, 0) * scales, values.astype(np.float32), _half(b, 2) * least)


def _q5_k(b: Bytes) -> Float32:
    scales, least = _scale_and_least(b[:, 4:16])
    low = _bits(b[:, 48:].reshape(-1, 4, 32), 4, 0, 4).reshape(-1, 256)
    high = _bits(b[:, 16:48], 1, *range(8)).reshape(-1, 256)
    values = (low | high << 4).astype(np.float32)
    return _scaled(_half(b, 0) * scales, values, _half(b, 2) * least)


def _q6_k(b: Bytes) -> Float32:
    low = _bits(b[:, :128].reshape(-1, 2, 64), 4, 0, 4).reshape(-1, 256)
    high = _bits(b[:, 128:192].reshape(-1, 2, 32), 2, 0, 2, 4, 6).reshape(-1, 256)
    scales = b[:, 192:208].view(np.int8)
    return _scaled(_half(b, 208) * scales, (low | high << 4).astype(np.float32) - 32)


BLOCKS: dict[int, BlockFormat] = {
    2: BlockFormat("q4_0", 32, 18, _q4_0),
    3: BlockFormat("q4_1", 32, 20, _q4_1),
    6: BlockFormat("q5_0", 32, 22, _q5_0),
    7: BlockFormat("q5_1", 32, 24, _q5_1),
    8: BlockFormat("q8_0", 32, 34, _q8_0),
    10: BlockFormat("q2_k", 256, 84, _q2_k),
    11: BlockFormat("q3_k", 256, 110, _q3_k),
    12: BlockFormat("q4_k", 256, 144, _q4_k),
    13: BlockFormat("q5_k", 256, 176, _q5_k),
    14: BlockFormat("q6_k", 256, 210, _q6_k),
}
"""By the number a GGUF file gives the type of a tensor."""
PLAIN: dict[int, str] = {
    0: "float32",
    1: "float16",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    30: "bfloat16",
}
"""Types whose elements stand alone."""
