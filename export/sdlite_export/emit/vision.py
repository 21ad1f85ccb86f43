"""Operations of picture encoders as ONNX nodes; the public methods are documented by
``VisionOps``."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.ops import Value


class OnnxVisionOps(OnnxOps):
    """``VisionOps`` that records ONNX nodes."""

    def patches(self, x: Value, name: str, channels: int, size: int) -> Value:
        weight = self.weight(f"{name}.weight", (channels, x.channels, size, size))
        side = int(x.shape[2]) // size
        y = self.graph.node(
            "Conv",
            [x.name, weight],
            f"{name}/conv",
            (x.shape[0], channels, side, side),
            kernel_shape=[size, size],
            strides=[size, size],
        )
        flat = (x.shape[0], channels, side * side)
        y = self.graph.node(
            "Reshape", [y.name, self.int64([0, channels, -1])], f"{name}/flat", flat
        )
        tokens = (x.shape[0], side * side, channels)
        return self.graph.node("Transpose", [y.name], f"{name}/tokens", tokens, perm=[0, 2, 1])

    def with_class_token(self, x: Value, key: str) -> Value:
        batch, tokens, channels = x.shape
        learned = self.weight(key, (x.channels,))
        count = self.shape_of(x, 0, 1)
        shape = self.graph.node(
            "Concat", [count, self.int64([1, x.channels])], f"{key}/shape", (3,), "int64", axis=0
        )
        first = self.graph.node(
            "Expand", [learned, shape.name], f"{key}/token", (batch, 1, channels)
        )
        return self.graph.node(
            "Concat",
            [first.name, x.name],
            f"{key}/tokens",
            (batch, int(tokens) + 1, channels),
            axis=1,
        )

    def first_token(self, x: Value) -> Value:
        batch, _, channels = x.shape
        name = f"{x.name}/first"
        y = self.graph.node("Gather", [x.name, self.int64([0])], name, (batch, 1, channels), axis=1)
        shape = self.int64([0, x.channels])
        return self.graph.node("Reshape", [y.name, shape], f"{name}/only", (batch, channels))

    def cosines(self, x: Value, key: str, count: int) -> Value:
        learned = self.weight(key, (count, x.channels), "transposed")
        across, down = self.int64([1]), self.int64([0])
        a = self._unit(Value(x.name, x.shape), across, f"{key}/picture", (x.shape[0], 1))
        b = self._unit(Value(learned, (x.channels, count)), down, f"{key}/concepts", (1, count))
        return self.graph.node("MatMul", [a.name, b.name], f"{key}/cosines", (x.shape[0], count))

    def _unit(self, x: Value, axis: str, name: str, shape: tuple[int | str, ...]) -> Value:
        """Vectors along an axis at length 1."""
        length = self.graph.node("ReduceL2", [x.name, axis], f"{name}/length", shape, keepdims=1)
        least = self.constant("least_length", np.array(1e-12, np.float32))
        length = self.graph.node("Max", [length.name, least], f"{name}/least", shape)
        return self.graph.node("Div", [x.name, length.name], f"{name}/unit", x.shape)

    def learned_tokens(self, key: str, shape: tuple[int, int], like: Value) -> Value:
        learned = self.weight(key, (1, *shape))
        count = self.shape_of(like, 0, 1)
        sizes = self.graph.node(
            "Concat", [count, self.int64([1, 1])], f"{key}/shape", (3,), "int64", axis=0
        )
        whole = (like.shape[0], *shape)
        return self.graph.node("Expand", [learned, sizes.name], f"{key}/tokens", whole)

    def as_tokens(self, x: Value, tokens: int) -> Value:
        channels = x.channels // tokens
        sizes = self.int64([0, tokens, channels])
        whole = (x.shape[0], tokens, channels)
        return self.graph.node("Reshape", [x.name, sizes], f"{x.name}/tokens", whole)

    def join_tokens(self, a: Value, b: Value) -> Value:
        whole = (a.shape[0], f"{a.shape[1]}+{b.shape[1]}", a.channels)
        return self.graph.node("Concat", [a.name, b.name], f"{b.name}/joined", whole, axis=1)

    def halves(self, x: Value) -> tuple[Value, Value]:
        half = x.channels // 2
        shape = (*x.shape[:-1], half)
        return (
            self._slice(x, f"{x.name}/first", 0, half, shape),
            self._slice(x, f"{x.name}/second", half, 2 * half, shape),
        )

    def beside(self, values: Sequence[Value]) -> Value:
        whole = (*values[0].shape[:-1], sum(value.channels for value in values))
        names = [value.name for value in values]
        return self.graph.node("Concat", names, f"{names[0]}/beside", whole, axis=-1)

    def minus(self, x: Value, key: str) -> Value:
        learned = self.weight(key, (x.channels,))
        return self.graph.node("Sub", [x.name, learned], f"{key}/difference", x.shape)
