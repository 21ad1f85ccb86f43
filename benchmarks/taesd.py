"""Make a random TAESD decoder: ``python -m benchmarks.taesd DEST``, a file in diffusers' names.

Of the published size (64 channels, blocks of three convolutions), values scaled so that activations
keep their deviation; only numpy is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.checkpoints import write_safetensors
from sdlite.types import Array

CHANNELS = 64
BLOCKS = (3, 3, 3, 1)
"""Blocks of every level, the smallest first."""


def layers() -> Iterator[tuple[str, tuple[int, int, int, int], bool]]:
    """Name, shape of the weight, and whether there is a bias, of every convolution."""
    yield "decoder.layers.0", (CHANNELS, 4, 3, 3), True
    index = 2
    for level, blocks in enumerate(BLOCKS):
        for _ in range(blocks):
            for part in (0, 2, 4):
                yield f"decoder.layers.{index}.conv.{part}", (CHANNELS, CHANNELS, 3, 3), True
            index += 1
        if level < len(BLOCKS) - 1:
            yield f"decoder.layers.{index + 1}", (CHANNELS, CHANNELS, 3, 3), False
            index += 2
    yield f"decoder.layers.{index}", (3, CHANNELS, 3, 3), True


def write_taesd(path: Path, seed: int = 0) -> int:
    """Write the file in float16 and return its size in bytes."""
    generator = np.random.Generator(np.random.PCG64(seed))
    entries: dict[str, tuple[tuple[int, ...], Iterator[Array]]] = {}
    for name, shape, bias in layers():
        # A block adds to its input: a third of the deviation keeps the sum in bounds.
        gain = 0.3 if name.endswith(".conv.4") else 1.4
        weight = generator.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
        entries[f"{name}.weight"] = (shape, iter((weight.astype(np.float32),)))
        if bias:
            value = generator.standard_normal(shape[:1]).astype(np.float32) * np.float32(0.02)
            entries[f"{name}.bias"] = (shape[:1], iter((value,)))
    return write_safetensors(path, entries, "fp16")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.taesd DEST.safetensors")
    print(f"{write_taesd(Path(sys.argv[1])) / 1e6:.1f} MB")
