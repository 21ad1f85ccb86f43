"""What every operation needs while a graph is recorded: weights, constants, shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from sdlite.manifest import Layer
from sdlite.types import Array
from sdlite_export.emit.graph import Graph, WeightNeed, stored_dtype
from sdlite_export.emit.targets import Target
from sdlite_export.ops import Value

FLOAT = 1


def scale_name(weight: str) -> str:
    """Name of the tensor that holds the steps of an 8-bit weight."""
    return f"{weight}_scale"


class Recorder:
    """A graph being recorded for one target and weight precision.

    Widened weights and shapes are kept by segment, so that none of them crosses a cut.
    """

    def __init__(
        self, target: Target, precision: str, layers: Mapping[str, Layer] | None = None
    ) -> None:
        """Begin a graph.

        Args:
            target: what it is written in.
            precision: ``fp16`` or ``fp32``, of weights that are not in 8 bits.
            layers: which layers are in 8 bits, and the ranges of their inputs.
        """
        self.target = target
        self.precision = precision
        self.quantized = layers or {}
        self.graph = Graph()
        self.memo: dict[tuple[int, str], str] = {}

    def weight(
        self,
        key: str,
        shape: tuple[int, ...],
        layout: Literal["source", "transposed"] = "source",
    ) -> str:
        """A weight as float32."""
        self.ask(key, WeightNeed(shape, layout))
        if stored_dtype(shape, self.precision) == "float32":
            return key
        memo = (self.graph.segment, key)
        if memo not in self.memo:
            self.memo[memo] = self.graph.node("Cast", [key], f"{key}/float32", shape, to=FLOAT).name
        return self.memo[memo]

    def layer_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        layout: Literal["source", "transposed"] = "source",
    ) -> str:
        """The weight of a layer as float32, from 8 bits where the layer is stored so."""
        key = f"{name}.weight"
        if self.precision_of(name) == "fp16":
            return self.weight(key, shape, layout)
        memo = (self.graph.segment, key)
        if memo not in self.memo:
            self.ask(key, WeightNeed(shape, layout, "int8"))
            scale = scale_name(key)
            self.ask(scale, WeightNeed(shape[:1], kind="given"))
            axis = 1 if layout == "transposed" else 0
            wide = self.graph.node(
                "DequantizeLinear", [key, scale], f"{key}/float32", shape, axis=axis
            )
            self.memo[memo] = wide.name
        return self.memo[memo]

    def layer_input(self, x: Value, name: str) -> Value:
        """The input of a layer, rounded to 8 bits where it is computed so.

        The pair of operations is what engines recognise: they compute the layer in integers.
        """
        layer = self.quantized.get(name)
        if layer is None or layer.precision != "w8a8":
            return x
        if name not in self.graph.layers:
            raise ValueError(f"layer {name} has a range and was not recorded")
        if not self.target.narrow_inputs(len(self.graph.layers[name].shape)):
            return x
        memo = (self.graph.segment, f"8 bits of {x.name} {layer.scale!r} {layer.zero_point}")
        if memo not in self.memo:
            step = self.constant(f"step_{layer.scale!r}", np.array(layer.scale, np.float32))
            zero = self.constant(f"zero_{layer.zero_point}", np.array(layer.zero_point, np.uint8))
            narrow = self.graph.node(
                "QuantizeLinear", [x.name, step, zero], f"{x.name}/uint8", x.shape, "uint8"
            )
            wide = self.graph.node(
                "DequantizeLinear", [narrow.name, step, zero], f"{x.name}/rounded", x.shape
            )
            self.memo[memo] = wide.name
        return self.graph.values[self.memo[memo]]

    def precision_of(self, name: str) -> str:
        """Precision of a layer: ``w8a8``, ``w8`` or ``fp16``."""
        layer = self.quantized.get(name)
        return "fp16" if layer is None else layer.precision

    def ask(self, key: str, need: WeightNeed) -> None:
        """Note that the graph needs a weight; it has one shape and layout."""
        known = self.graph.weights.setdefault(key, need)
        if known != need:
            raise ValueError(f"weight {key} is used as {known} and as {need}")

    def constant(self, name: str, value: Array) -> str:
        """A constant held in the graph itself."""
        self.graph.constants.setdefault(f"const/{name}", np.asarray(value))
        return f"const/{name}"

    def number(self, name: str, value: Array) -> str:
        """A float32 constant that is computed with, as what the graph computes in."""
        return self.constant(name, value)

    def int64(self, numbers: list[int]) -> str:
        """A constant list of integers."""
        text = ",".join(map(str, numbers))
        return self.constant(f"[{text}]", np.array(numbers, np.int64))

    def shape_of(self, x: Value, start: int, end: int) -> str:
        """Some sizes of a value, as a tensor."""
        key = (self.graph.segment, f"shape of {x.name} {start}:{end}")
        if key not in self.memo:
            self.memo[key] = self.graph.node(
                "Shape", [x.name], f"{x.name}/shape", (end - start,), "int64", start=start, end=end
            ).name
        return self.memo[key]
