"""Self-attention over fewer keys and values (token downsampling) as ONNX nodes."""
# ruff: noqa: D102

from __future__ import annotations

import numpy as np

from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.ops import Dim, Value

END = int(np.iinfo(np.int64).max)


class DownsampledOps(OnnxOps):
    """``DownsamplingOps`` that records ONNX nodes."""

    def every_second(self, x: Value, like: Value, size: tuple[Dim, Dim]) -> Value:
        batch, _, channels = x.shape
        height, width = like.shape[2:]
        key = (self.graph.segment, f"rows and columns of {like.name} with {channels}")
        if key not in self.memo:
            parts = [self.int64([0]), self.shape_of(like, 2, 4), self.int64([x.channels])]
            self.memo[key] = self.graph.node(
                "Concat", parts, f"{x.name}/plane", (4,), "int64", axis=0
            ).name
        plane = (batch, height, width, channels)
        y = self.graph.node("Reshape", [x.name, self.memo[key]], f"{x.name}/rows", plane)
        bounds = [self.int64(n) for n in ([0, 0], [END, END], [1, 2], [2, 2])]
        fewer = (batch, *size, channels)
        y = self.graph.node("Slice", [y.name, *bounds], f"{x.name}/every_second", fewer)
        flat = self.int64([0, -1, x.channels])
        tokens = (batch, f"{size[0]}*{size[1]}", channels)
        return self.graph.node("Reshape", [y.name, flat], f"{x.name}/fewer", tokens)
