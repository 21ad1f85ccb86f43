"""Convolutions that go on at the opposite edge, so that what is drawn repeats without a seam."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sdlite.manifest import Layer
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.targets import Target
from sdlite_export.ops import Dim, Value

WRAP = "wrap"
END = int(np.iinfo(np.int64).max)


class SeamlessOps(OnnxOps):
    """``OnnxOps`` whose graphs take one more input, ``wrap`` ``(2,)``: down and across.

    1 pads every convolution with what lies at the opposite edge along that axis, 0 with zeros as
    usual, so one graph serves all directions.
    """

    def __init__(
        self, target: Target, precision: str, layers: Mapping[str, Layer] | None = None
    ) -> None:
        super().__init__(target, precision, layers)
        self._wrap = self.input(WRAP, (2,))

    def conv(
        self,
        x: Value,
        name: str,
        channels: int,
        kernel: int = 3,
        stride: int = 1,
        padding: tuple[int, int, int, int] | None = None,
        size: tuple[Dim, Dim] | None = None,
    ) -> Value:
        """A convolution of what ``padded`` gives."""
        top, left, bottom, right = padding or (kernel // 2,) * 4
        size = size or (x.shape[2], x.shape[3])
        x = self._padded(x, 3, left, right)
        x = self._padded(x, 2, top, bottom)
        return super().conv(x, name, channels, kernel, stride, (0, 0, 0, 0), size)

    def _padded(self, x: Value, axis: int, before: int, after: int) -> Value:
        if not before and not after:
            return x
        key = (self.graph.segment, f"wrap along {axis}")
        if key not in self.memo:
            bounds = [self.int64([n]) for n in (axis - 2, axis - 1, 0)]
            self.memo[key] = self.graph.node(
                "Slice", [self._wrap.name, *bounds], f"{WRAP}/{axis}", (1,)
            ).name
        share = self.memo[key]
        parts = [x.name]
        for count, start, end in ((before, -before, END), (after, 0, after)):
            if count:
                shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
                bounds = [self.int64([n]) for n in (start, end, axis)]
                edge = self.graph.node("Slice", [x.name, *bounds], f"{x.name}/edge", shape)
                edge = self.graph.node("Mul", [edge.name, share], f"{x.name}/shared", shape)
                parts.insert(0 if start < 0 else len(parts), edge.name)
        return self.graph.node("Concat", parts, f"{x.name}/padded", x.shape, axis=axis)
