"""A checkpoint's tensors as a program takes them: arranged, narrowed, and kept in a file meanwhile.

coremltools holds every weight of a program until it writes them. So that this takes no memory, what
it is given are pages of a scratch file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdlite.tensors.base import Tensors
from sdlite.types import Array
from sdlite_export.emit.coreml.mil import LAYOUTS
from sdlite_export.emit.coreml.palette import Palette, palettise
from sdlite_export.emit.graph import WeightNeed
from sdlite_export.weights import convert

SMALL = 4096
"""Tensors of fewer elements get no palette, and need no file."""


class Store:
    """Gives a program its weights.

    Args:
        tensors: of the checkpoint.
        needs: what the architecture asks for.
        precision: ``fp16`` or ``fp32``.
        bits: of a palette's indices; None stores values.
        keep: weights that get no palette.
        scratch: a file to make; whoever calls deletes it when the program is written.
        report: gets the bytes of each tensor as it is stored.
    """

    def __init__(
        self,
        tensors: Tensors,
        needs: Mapping[str, WeightNeed],
        precision: str,
        bits: int | None,
        keep: Callable[[str], bool],
        scratch: Path,
        report: Callable[[int], object],
    ) -> None:
        self._tensors = tensors
        self._needs = needs
        self._dtype = "float16" if precision == "fp16" else "float32"
        self._bits = bits
        self._keep = keep
        self._scratch = scratch
        self._report = report

    def __call__(self, key: str, layout: str) -> Array | Palette:
        """A weight in a layout of ``LAYOUTS``; raises ``SourceError`` when it does not fit."""
        array = convert(key, self._tensors.read(key), self._needs[key], self._dtype)
        array = np.ascontiguousarray(LAYOUTS[layout](array))
        self._report(array.nbytes)
        # Norms and biases, however they are arranged, are vectors of the state dict.
        small = array.size < SMALL or len(self._needs[key].shape) < 2
        if self._bits is None or small or self._keep(key):
            return array if small else self._filed(array)
        palette = palettise(array, self._bits)
        return Palette(palette.shape, palette.colours, self._filed(palette.indices))

    def _filed(self, array: Array) -> Any:
        with self._scratch.open("ab") as stream:
            offset = stream.tell()
            array.tofile(stream)
        mapped = np.memmap(self._scratch, array.dtype, "r", offset, array.shape)
        return np.asarray(mapped)
