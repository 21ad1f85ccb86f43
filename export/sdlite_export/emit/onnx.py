"""Operations to ONNX nodes; the target says which of several ways to write each.

The public methods are documented by ``Ops``.
"""
# ruff: noqa: D102

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from sdlite.types import Array
from sdlite_export.emit.graph import Graph, WeightNeed, stored_dtype
from sdlite_export.emit.targets import Target
from sdlite_export.ops import Dim, Shape, Value

FLOAT = 1
INT32 = 6
MICROSOFT = "com.microsoft"


class OnnxOps:
    """``Ops`` that records ONNX nodes in ``graph`` for one target and weight precision."""

    def __init__(self, target: Target, precision: str) -> None:
        self.target = target
        self.precision = precision
        self.graph = Graph()
        self._memo: dict[tuple[int, str], str] = {}
        self._outputs: list[tuple[str, Value]] = []

    def input(
        self, name: str, shape: Shape, dtype: Literal["float32", "int64"] = "float32"
    ) -> Value:
        value = Value(self.graph.unique(name), shape, dtype)
        self.graph.inputs.append(value)
        return value

    def output(self, name: str, x: Value) -> None:
        self._outputs.append((name, x))

    def finish(self) -> Graph:
        """Name the outputs and give the graph away; nothing may be added afterwards."""
        for name, x in self._outputs:
            self.graph.rename(x.name, name)
            self.graph.outputs.append(self.graph.values[name])
        return self.graph

    def cut(self) -> None:
        self.graph.segment += 1

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
        weight = self._weight(f"{name}.weight", (channels, x.channels, kernel, kernel))
        bias = self._weight(f"{name}.bias", (channels,))
        return self.graph.node(
            "Conv",
            [x.name, weight, bias],
            f"{name}/conv",
            (x.shape[0], channels, *(size or x.shape[2:])),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=list(padding or [kernel // 2] * 4),
        )

    def linear(self, x: Value, name: str, channels: int, bias: bool = True) -> Value:
        weight = self._weight(f"{name}.weight", (channels, x.channels), "transposed")
        shape = (*x.shape[:-1], channels)
        y = self.graph.node("MatMul", [x.name, weight], f"{name}/matmul", shape)
        if not bias:
            return y
        offset = self._weight(f"{name}.bias", (channels,))
        return self.graph.node("Add", [y.name, offset], f"{name}/add", shape)

    def group_norm(self, x: Value, name: str, groups: int, eps: float, silu: bool = False) -> Value:
        scale = self._weight(f"{name}.weight", (x.channels,))
        shift = self._weight(f"{name}.bias", (x.channels,))
        if self.target.group_norm == "GroupNormalization":
            y = self.graph.node(
                "GroupNormalization",
                [x.name, scale, shift],
                f"{name}/norm",
                x.shape,
                num_groups=groups,
                epsilon=eps,
            )
        else:
            y = self._instance_norm(x, name, groups, eps, scale, shift)
        return self.silu(y) if silu else y

    def _instance_norm(
        self, x: Value, name: str, groups: int, eps: float, scale: str, shift: str
    ) -> Value:
        """Group normalisation by ONNX Runtime's fast kernels: its own is expanded at load."""
        rows = self._int64([0, groups, -1])
        batch, _, height, width = x.shape
        channels = x.channels
        row = f"{x.channels // groups}*{height}*{width}"
        y = self.graph.node("Reshape", [x.name, rows], f"{name}/groups", (batch, groups, row))
        ones = self._constant(f"ones_{groups}", np.ones(groups, np.float32))
        zeros = self._constant(f"zeros_{groups}", np.zeros(groups, np.float32))
        y = self.graph.node(
            "InstanceNormalization",
            [y.name, ones, zeros],
            f"{name}/normed",
            y.shape,
            epsilon=eps,
        )
        shape = self._shape_of(x, 0, 4)
        y = self.graph.node("Reshape", [y.name, shape], f"{name}/map", x.shape)
        if self.target.norm_scale == "Mul":
            axes, column = self._int64([1, 2]), (channels, 1, 1)
            wide = self.graph.node("Unsqueeze", [scale, axes], f"{name}/scale", column)
            y = self.graph.node("Mul", [y.name, wide.name], f"{name}/scaled", x.shape)
            wide = self.graph.node("Unsqueeze", [shift, axes], f"{name}/shift", column)
            return self.graph.node("Add", [y.name, wide.name], f"{name}/norm", x.shape)
        # Batch normalisation with mean 0 and variance 1 scales and shifts channels in one pass.
        mean = self._constant(f"zeros_{channels}", np.zeros(channels, np.float32))
        variance = self._constant(f"ones_{channels}", np.ones(channels, np.float32))
        return self.graph.node(
            "BatchNormalization",
            [y.name, scale, shift, mean, variance],
            f"{name}/norm",
            x.shape,
            epsilon=0.0,
        )

    def layer_norm(self, x: Value, name: str, eps: float) -> Value:
        scale = self._weight(f"{name}.weight", (x.channels,))
        shift = self._weight(f"{name}.bias", (x.channels,))
        return self.graph.node(
            "LayerNormalization",
            [x.name, scale, shift],
            f"{name}/norm",
            x.shape,
            axis=-1,
            epsilon=eps,
        )

    def silu(self, x: Value) -> Value:
        return self._sigmoid_gate(x, 1.0, "silu")

    def quick_gelu(self, x: Value) -> Value:
        return self._sigmoid_gate(x, 1.702, "quick_gelu")

    def _sigmoid_gate(self, x: Value, alpha: float, what: str) -> Value:
        name = f"{x.name}/{what}"
        if self.target.sigmoid_gate == "QuickGelu":
            return self.graph.node(
                "QuickGelu", [x.name], name, x.shape, domain=MICROSOFT, alpha=alpha
            )
        inner = x
        if alpha != 1.0:
            factor = self._constant(f"alpha_{alpha}", np.array(alpha, np.float32))
            inner = self.graph.node("Mul", [x.name, factor], f"{name}/scaled", x.shape)
        gate = self.graph.node("Sigmoid", [inner.name], f"{name}/gate", x.shape)
        return self.graph.node("Mul", [x.name, gate.name], name, x.shape)

    def gelu(self, x: Value) -> Value:
        return self.graph.node("Gelu", [x.name], f"{x.name}/gelu", x.shape, approximate="none")

    def add(self, a: Value, b: Value) -> Value:
        return self.graph.node("Add", [a.name, b.name], f"{b.name}/sum", a.shape)

    def add_to_map(self, x: Value, vector: Value) -> Value:
        axes = self._int64([2, 3])
        wide = self.graph.node(
            "Unsqueeze", [vector.name, axes], f"{vector.name}/map", (*vector.shape, 1, 1)
        )
        return self.graph.node("Add", [x.name, wide.name], f"{x.name}/shifted", x.shape)

    def gated_gelu(self, x: Value, name: str, channels: int) -> Value:
        both = self.linear(x, name, 2 * channels)
        shape = (*x.shape[:-1], channels)
        value = self._slice(both, f"{name}/value", 0, channels, shape)
        gate = self._slice(both, f"{name}/gate", channels, 2 * channels, shape)
        gelu = self.gelu(gate)
        return self.graph.node("Mul", [value.name, gelu.name], f"{name}/gated", shape)

    def _slice(self, x: Value, name: str, start: int, stop: int, shape: Shape) -> Value:
        bounds = [self._int64([start]), self._int64([stop]), self._int64([-1])]
        return self.graph.node("Slice", [x.name, *bounds], name, shape)

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        name = f"{q.name}/attention"
        inputs = [q.name, k.name, v.name]
        if self.target.attention == "MultiHeadAttention":
            return self.graph.node(
                "MultiHeadAttention",
                inputs,
                name,
                q.shape,
                domain=MICROSOFT,
                num_heads=heads,
                unidirectional=int(causal),
            )
        return self.graph.node(
            "Attention",
            inputs,
            name,
            q.shape,
            q_num_heads=heads,
            kv_num_heads=heads,
            is_causal=int(causal),
        )

    def concat(self, a: Value, b: Value) -> Value:
        shape = (a.shape[0], a.channels + b.channels, *a.shape[2:])
        return self.graph.node("Concat", [a.name, b.name], f"{a.name}/joined", shape, axis=1)

    def upsample(self, x: Value, size: tuple[Dim, Dim], like: Value | None = None) -> Value:
        name = f"{x.name}/upsampled"
        if like is None:
            sizes = ["", self._constant("twice", np.array([2, 2], np.float32))]
        else:
            sizes = ["", "", self._shape_of(like, 2, 4)]
        return self.graph.node(
            "Resize",
            [x.name, *sizes],
            name,
            (*x.shape[:2], *size),
            axes=[2, 3],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def to_tokens(self, x: Value) -> Value:
        batch, channels, height, width = x.shape
        tokens = f"{height}*{width}"
        y = self.graph.node(
            "Reshape",
            [x.name, self._int64([0, x.channels, -1])],
            f"{x.name}/flat",
            (batch, channels, tokens),
        )
        return self.graph.node(
            "Transpose", [y.name], f"{x.name}/tokens", (batch, tokens, channels), perm=[0, 2, 1]
        )

    def to_map(self, x: Value, like: Value) -> Value:
        batch, tokens, channels = x.shape
        y = self.graph.node(
            "Transpose", [x.name], f"{x.name}/channels", (batch, channels, tokens), perm=[0, 2, 1]
        )
        head = self._int64([0, x.channels])
        key = (self.graph.segment, f"map of {like.name} with {x.channels}")
        if key not in self._memo:
            plane = self._shape_of(like, 2, 4)
            self._memo[key] = self.graph.node(
                "Concat", [head, plane], f"{x.name}/shape", (4,), "int64", axis=0
            ).name
        return self.graph.node(
            "Reshape",
            [y.name, self._memo[key]],
            f"{x.name}/map",
            (batch, channels, *like.shape[2:]),
        )

    def timestep_embedding(self, timestep: Value, channels: int, flip: bool, shift: float) -> Value:
        half = channels // 2
        # Rounded as the models saw them in training: torch computes these in float32.
        steps = np.arange(half, dtype=np.float32)
        exponents = np.float32(-math.log(10000.0)) * steps / np.float32(half - shift)
        frequencies = np.exp(exponents)
        table = self._constant("frequencies", frequencies[None])
        axes = self._int64([1])
        batch = timestep.shape[0]
        t = self.graph.node("Unsqueeze", [timestep.name, axes], "time/column", (batch, 1))
        angle = self.graph.node("Mul", [t.name, table], "time/angle", (batch, half))
        parts = [
            self.graph.node(op, [angle.name], f"time/{op.lower()}", (batch, half)).name
            for op in (("Cos", "Sin") if flip else ("Sin", "Cos"))
        ]
        return self.graph.node("Concat", parts, "time/embedding", (batch, channels), axis=1)

    def embedding(self, ids: Value, name: str, rows: int, channels: int) -> Value:
        shape = (*ids.shape, channels)
        return self._rows(f"{name}.weight", (rows, channels), "Gather", [ids.name], name, shape)

    def add_positions(self, x: Value, name: str, rows: int) -> Value:
        # The table is cut to the tokens there are before it is widened.
        bounds = [self._int64([0]), self._shape_of(x, 1, 2), self._int64([0])]
        shape = (x.shape[1], x.channels)
        key = f"{name}.weight"
        table = self._rows(key, (rows, x.channels), "Slice", bounds, name, shape)
        return self.graph.node("Add", [x.name, table.name], f"{name}/sum", x.shape)

    def _rows(
        self, key: str, table: tuple[int, int], op: str, rest: list[str], name: str, shape: Shape
    ) -> Value:
        """Pick rows of a table as stored, then widen only those to float32."""
        self._ask(key, WeightNeed(table))
        picked = self.graph.node(op, [key, *rest], f"{name}/rows", shape)
        if stored_dtype(table, self.precision) == "float32":
            return picked
        return self.graph.node("Cast", [picked.name], f"{name}/wide", shape, to=FLOAT)

    def at_first(self, x: Value, ids: Value, token: int) -> Value:
        wanted = self._int64([token])
        equal = self.graph.node("Equal", [ids.name, wanted], "pooled/equal", ids.shape, "int64")
        flags = self.graph.node("Cast", [equal.name], "pooled/flags", ids.shape, "int64", to=INT32)
        batch = (ids.shape[0], 1)
        place = self.graph.node(
            "ArgMax", [flags.name], "pooled/place", batch, "int64", axis=1, keepdims=1
        )
        return self.graph.node(
            "GatherND",
            [x.name, place.name],
            "pooled/row",
            (x.shape[0], x.channels),
            batch_dims=1,
        )

    def _weight(
        self,
        key: str,
        shape: tuple[int, ...],
        layout: Literal["source", "transposed"] = "source",
    ) -> str:
        self._ask(key, WeightNeed(shape, layout))
        if stored_dtype(shape, self.precision) == "float32":
            return key
        memo = (self.graph.segment, key)
        if memo not in self._memo:
            self._memo[memo] = self.graph.node(
                "Cast", [key], f"{key}/float32", shape, to=FLOAT
            ).name
        return self._memo[memo]

    def _ask(self, key: str, need: WeightNeed) -> None:
        known = self.graph.weights.setdefault(key, need)
        if known != need:
            raise ValueError(f"weight {key} is used as {known} and as {need}")

    def _constant(self, name: str, value: Array) -> str:
        self.graph.constants.setdefault(f"const/{name}", np.asarray(value))
        return f"const/{name}"

    def _int64(self, numbers: list[int]) -> str:
        text = ",".join(map(str, numbers))
        return self._constant(f"[{text}]", np.array(numbers, np.int64))

    def _shape_of(self, x: Value, start: int, end: int) -> str:
        key = (self.graph.segment, f"shape of {x.name} {start}:{end}")
        if key not in self._memo:
            self._memo[key] = self.graph.node(
                "Shape", [x.name], f"{x.name}/shape", (end - start,), "int64", start=start, end=end
            ).name
        return self._memo[key]
