"""Graphs that compute in float16, for GPUs: weights are taken as they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np

from sdlite.types import Array
from sdlite_export.emit.graph import WeightNeed, stored_dtype
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.recorder import FLOAT, scale_name
from sdlite_export.ops import Shape, Value

HALF = "half"
"""The variant of such graphs."""
FLOAT16 = 10
EXACT = ("timestep", "time_ids")
"""Inputs that are embedded in float32: float16 holds 999 only to the nearest half."""


class HalfOps(OnnxOps):
    """``OnnxOps`` in float16 between inputs and outputs, which stay float32.

    Weights in 8 bits are widened layer by layer. What depends on weights alone engines compute
    first, all of it; so the steps of such a weight are given a shape that depends on the layer's
    input, and its wide copy lives no longer than the layer. Inputs of layers are not rounded to 8
    bits, which would cost a GPU time and win nothing.
    """

    def input(
        self, name: str, shape: Shape, dtype: Literal["float32", "int64"] = "float32"
    ) -> Value:
        """An input; what is no time is rounded to float16 first."""
        value = super().input(name, shape, dtype)
        self.graph.computed = "float16"
        return value if name in EXACT or dtype != "float32" else self._narrow(value)

    def output(self, name: str, x: Value) -> None:
        """An output, as float32."""
        wide = self.graph.node("Cast", [x.name], f"{x.name}/float32", x.shape, "float32", to=FLOAT)
        super().output(name, wide)

    def weight(
        self,
        key: str,
        shape: tuple[int, ...],
        layout: Literal["source", "transposed"] = "source",
    ) -> str:
        """A weight as float16."""
        self.ask(key, WeightNeed(shape, layout))
        if stored_dtype(shape, self.precision) == "float16":
            return key
        return self._narrow(Value(key, shape)).name

    def layer_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        layout: Literal["source", "transposed"] = "source",
    ) -> str:
        """The weight of a layer as float16, from 8 bits where the layer is stored so."""
        if self.precision_of(name) == "fp16":
            return self.weight(f"{name}.weight", shape, layout)
        key, (channels, *_) = f"{name}.weight", shape
        self.ask(key, WeightNeed(shape, layout, "int8"))
        self.ask(scale_name(key), WeightNeed((channels,), kind="given"))
        taken = self.graph.find(self.graph.layers[name].input)
        batch = self.shape_of(taken, 0, 1)
        nothing = self.graph.node("Mul", [batch, self.int64([0])], f"{key}/nothing", (1,), "int64")
        size = self.graph.node(
            "Add", [nothing.name, self.int64([channels])], f"{key}/channels", (1,), "int64"
        )
        steps = self.graph.node(
            "Reshape", [scale_name(key), size.name], f"{key}/steps", (channels,), "float32"
        )
        wide = self.graph.node(
            "DequantizeLinear",
            [key, steps.name],
            f"{key}/float32",
            shape,
            "float32",
            axis=1 if layout == "transposed" else 0,
        )
        return self._narrow(wide).name

    def layer_input(self, x: Value, name: str) -> Value:
        """The input as it is."""
        return x

    def number(self, name: str, value: Array) -> str:
        """A constant as float16."""
        return self.constant(f"{name}_half", value.astype(np.float16))

    def timestep_embedding(self, timestep: Value, channels: int, flip: bool, shift: float) -> Value:
        """The embedding, computed in float32."""
        with self._exactly():
            y = super().timestep_embedding(timestep, channels, flip, shift)
        return self._narrow(y)

    def embedding(self, ids: Value, name: str, rows: int, channels: int) -> Value:
        """Rows of a table, rounded to float16 once they were picked."""
        with self._exactly():
            y = super().embedding(ids, name, rows, channels)
        return self._narrow(y)

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        self.graph.computed = "float32"
        try:
            yield
        finally:
            self.graph.computed = "float16"

    def _narrow(self, x: Value) -> Value:
        memo = (self.graph.segment, f"{x.name} in float16")
        if memo not in self.memo:
            made = self.graph.node("Cast", [x.name], f"{x.name}/half", x.shape, to=FLOAT16)
            self.memo[memo] = made.name
        return self.graph.values[self.memo[memo]]
