"""Operations to ONNX nodes; the target says which of several ways to write each.

The public methods are documented by ``Ops``.
"""
# ruff: noqa: D102

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from sdlite.manifest import Layer
from sdlite_export.emit.graph import Fold, Graph, LayerUse, WeightNeed, stored_dtype
from sdlite_export.emit.norm import given_norm, half_norm, instance_norm, reduced_norm
from sdlite_export.emit.recorder import FLOAT, Recorder
from sdlite_export.emit.targets import Target
from sdlite_export.ops import Dim, Shape, Value

INT32 = 6
MICROSOFT = "com.microsoft"


class OnnxOps(Recorder):
    """``Ops`` that records ONNX nodes in ``graph`` for one target and weight precision."""

    def __init__(
        self, target: Target, precision: str, layers: Mapping[str, Layer] | None = None
    ) -> None:
        super().__init__(target, precision, layers)
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
            x = self._apart(x)
            self.graph.rename(x.name, name)
            self.graph.outputs.append(self.graph.values[name])
        return self.graph

    def _apart(self, x: Value) -> Value:
        """An output that a later segment also takes would end inside the chain: copy it."""
        maker = next((node for node in self.graph.nodes if x.name in node.outputs), None)
        if maker is None or all(
            node.segment == maker.segment for node in self.graph.nodes if x.name in node.inputs
        ):
            return x
        now, self.graph.segment = self.graph.segment, maker.segment
        copy = self.graph.node("Identity", [x.name], f"{x.name}/output", x.shape, x.dtype)
        self.graph.segment = now
        return copy

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
        shape = (channels, x.channels, kernel, kernel)
        pads = padding or (kernel // 2,) * 4
        return self._conv(x, LayerUse(name, x.name, "", shape, True, stride, pads), size)

    def plain_conv(
        self,
        x: Value,
        name: str,
        channels: int,
        stride: int = 1,
        size: tuple[Dim, Dim] | None = None,
    ) -> Value:
        shape = (channels, x.channels, 3, 3)
        return self._conv(x, LayerUse(name, x.name, "", shape, False, stride, (1,) * 4), size)

    def _conv(self, x: Value, use: LayerUse, size: tuple[Dim, Dim] | None) -> Value:
        taken = self._layer(x, use)
        channels, _, kernel, _ = use.shape
        inputs = [taken.name, self.layer_weight(use.name, use.shape)]
        if use.bias:
            inputs.append(self.weight(f"{use.name}.bias", (channels,)))
        y = self.graph.node(
            "Conv",
            inputs,
            f"{use.name}/conv",
            (x.shape[0], channels, *(size or x.shape[2:])),
            kernel_shape=[kernel, kernel],
            strides=[use.stride, use.stride],
            pads=list(use.pads),
        )
        self._gives(use.name, y)
        return y

    def _layer(self, x: Value, use: LayerUse) -> Value:
        """Note a layer; returns its input as it takes it."""
        self.graph.layers[use.name] = use
        return self.layer_input(x, use.name)

    def _gives(self, name: str, y: Value) -> None:
        self.graph.layers[name] = replace(self.graph.layers[name], output=y.name)

    def linear(self, x: Value, name: str, channels: int, bias: bool = True) -> Value:
        use = LayerUse(name, x.name, "", (channels, x.channels), bias)
        taken = self._layer(x, use)
        weight = self.layer_weight(name, use.shape, "transposed")
        shape = (*x.shape[:-1], channels)
        y = self.graph.node("MatMul", [taken.name, weight], f"{name}/matmul", shape)
        if bias:
            offset = self.weight(f"{name}.bias", (channels,))
            y = self.graph.node("Add", [y.name, offset], f"{name}/add", shape)
        self._gives(name, y)
        return y

    def group_norm(self, x: Value, name: str, groups: int, eps: float, silu: bool = False) -> Value:
        scale = self.weight(f"{name}.weight", (x.channels,))
        shift = self.weight(f"{name}.bias", (x.channels,))
        if self.target.group_norm == "GroupNormalization":
            y = self.graph.node(
                "GroupNormalization",
                [x.name, scale, shift],
                f"{name}/norm",
                x.shape,
                num_groups=groups,
                epsilon=eps,
            )
        elif self.target.group_norm == "InstanceNormalization":
            y = instance_norm(self, x, name, groups, eps, scale, shift)
        elif self.target.group_norm == "Half":
            y = half_norm(self, x, name, groups, eps, scale, shift)
        else:
            y = reduced_norm(self, x, name, groups, eps, scale, shift)
        if silu:
            return self.silu(y)
        self._scaled_by(y, name)
        return y

    def _scaled_by(self, y: Value, name: str) -> None:
        """Note that a norm's scale and shift can take a factor for each channel of ``y``."""
        self.graph.folds[y.name] = (Fold(f"{name}.weight", 0), Fold(f"{name}.bias", 0))

    def given_norm(self, x: Value, name: str, groups: int, eps: float) -> Value:
        scale = self.weight(f"{name}.weight", (x.channels,))
        shift = self.weight(f"{name}.bias", (x.channels,))
        mean, variance = (
            self.input(f"{x.name}/{part}", (groups,)) for part in ("mean", "variance")
        )
        return self.silu(given_norm(self, x, name, eps, scale, shift, mean, variance))

    def layer_norm(self, x: Value, name: str, eps: float) -> Value:
        scale = self.weight(f"{name}.weight", (x.channels,))
        shift = self.weight(f"{name}.bias", (x.channels,))
        y = self.graph.node(
            "LayerNormalization",
            [x.name, scale, shift],
            f"{name}/norm",
            x.shape,
            axis=-1,
            epsilon=eps,
        )
        self._scaled_by(y, name)
        return y

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
            factor = self.number(f"alpha_{alpha}", np.array(alpha, np.float32))
            inner = self.graph.node("Mul", [x.name, factor], f"{name}/scaled", x.shape)
        gate = self.graph.node("Sigmoid", [inner.name], f"{name}/gate", x.shape)
        return self.graph.node("Mul", [x.name, gate.name], name, x.shape)

    def halve(self, x: Value, size: tuple[Dim, Dim]) -> Value:
        # At an odd edge the mean is that of the cells there are.
        return self.graph.node(
            "AveragePool",
            [x.name],
            f"{x.name}/half",
            (*x.shape[:2], *size),
            kernel_shape=[2, 2],
            strides=[2, 2],
            ceil_mode=1,
        )

    def gelu(self, x: Value) -> Value:
        return self.graph.node("Gelu", [x.name], f"{x.name}/gelu", x.shape, approximate="none")

    def relu(self, x: Value) -> Value:
        return self.graph.node("Relu", [x.name], f"{x.name}/relu", x.shape)

    def tanh(self, x: Value) -> Value:
        return self.graph.node("Tanh", [x.name], f"{x.name}/tanh", x.shape)

    def affine(self, x: Value, factor: float, offset: float = 0.0) -> Value:
        scale = self.number(f"factor_{factor!r}", np.array(factor, np.float32))
        y = self.graph.node("Mul", [x.name, scale], f"{x.name}/scaled", x.shape)
        if not offset:
            return y
        shift = self.number(f"offset_{offset!r}", np.array(offset, np.float32))
        return self.graph.node("Add", [y.name, shift], f"{x.name}/shifted", x.shape)

    def add(self, a: Value, b: Value) -> Value:
        return self.graph.node("Add", [a.name, b.name], f"{b.name}/sum", a.shape)

    def add_to_map(self, x: Value, vector: Value) -> Value:
        axes = self.int64([2, 3])
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
        bounds = [self.int64([start]), self.int64([stop]), self.int64([-1])]
        return self.graph.node("Slice", [x.name, *bounds], name, shape)

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        name = f"{q.name}/attention"
        inputs = [q.name, k.name, v.name]
        if self.target.attention == "MultiHeadAttention":
            y = self.graph.node(
                "MultiHeadAttention",
                inputs,
                name,
                q.shape,
                domain=MICROSOFT,
                num_heads=heads,
                unidirectional=int(causal),
            )
        else:
            y = self.graph.node(
                "Attention",
                inputs,
                name,
                q.shape,
                q_num_heads=heads,
                kv_num_heads=heads,
                is_causal=int(causal),
            )
        # Means over tokens: a factor for a channel of the values is one for the result's.
        for use in self.graph.layers.values():
            if use.output == v.name:
                rows = (Fold(f"{use.name}.weight", 0), Fold(f"{use.name}.bias", 0))
                self.graph.folds[y.name] = rows if use.bias else rows[:1]
        return y

    def concat(self, a: Value, b: Value) -> Value:
        shape = (a.shape[0], a.channels + b.channels, *a.shape[2:])
        return self.graph.node("Concat", [a.name, b.name], f"{a.name}/joined", shape, axis=1)

    def upsample(self, x: Value, size: tuple[Dim, Dim], like: Value | None = None) -> Value:
        name = f"{x.name}/upsampled"
        if like is None:
            sizes = ["", self.constant("twice", np.array([2, 2], np.float32))]
        else:
            sizes = ["", "", self.shape_of(like, 2, 4)]
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
            [x.name, self.int64([0, x.channels, -1])],
            f"{x.name}/flat",
            (batch, channels, tokens),
        )
        y = self.graph.node(
            "Transpose", [y.name], f"{x.name}/tokens", (batch, tokens, channels), perm=[0, 2, 1]
        )
        if x.name in self.graph.folds:
            self.graph.folds[y.name] = self.graph.folds[x.name]
        return y

    def to_map(self, x: Value, like: Value) -> Value:
        batch, tokens, channels = x.shape
        y = self.graph.node(
            "Transpose", [x.name], f"{x.name}/channels", (batch, channels, tokens), perm=[0, 2, 1]
        )
        head = self.int64([0, x.channels])
        key = (self.graph.segment, f"map of {like.name} with {x.channels}")
        if key not in self.memo:
            plane = self.shape_of(like, 2, 4)
            self.memo[key] = self.graph.node(
                "Concat", [head, plane], f"{x.name}/shape", (4,), "int64", axis=0
            ).name
        return self.graph.node(
            "Reshape",
            [y.name, self.memo[key]],
            f"{x.name}/map",
            (batch, channels, *like.shape[2:]),
        )

    def timestep_embedding(self, timestep: Value, channels: int, flip: bool, shift: float) -> Value:
        half = channels // 2
        # Rounded as the models saw them in training: torch computes these in float32.
        steps = np.arange(half, dtype=np.float32)
        exponents = np.float32(-math.log(10000.0)) * steps / np.float32(half - shift)
        frequencies = np.exp(exponents)
        table = self.constant(f"frequencies_{half}_{shift:g}", frequencies[None])
        axes = self.int64([-1])
        shape = (*timestep.shape, half)
        name = timestep.name
        t = self.graph.node("Unsqueeze", [name, axes], f"{name}/column", (*timestep.shape, 1))
        angle = self.graph.node("Mul", [t.name, table], f"{name}/angle", shape)
        parts = [
            self.graph.node(op, [angle.name], f"{name}/{op.lower()}", shape).name
            for op in (("Cos", "Sin") if flip else ("Sin", "Cos"))
        ]
        shape = (*timestep.shape, channels)
        y = self.graph.node("Concat", parts, f"{name}/embedding", shape, axis=-1)
        if len(shape) == 2:
            return y
        row = [0, timestep.channels * channels]
        return self.graph.node(
            "Reshape", [y.name, self.int64(row)], f"{name}/row", (timestep.shape[0], row[1])
        )

    def embedding(self, ids: Value, name: str, rows: int, channels: int) -> Value:
        shape = (*ids.shape, channels)
        return self._rows(f"{name}.weight", (rows, channels), "Gather", [ids.name], name, shape)

    def add_positions(self, x: Value, name: str, rows: int) -> Value:
        # The table is cut to the tokens there are before it is widened.
        bounds = [self.int64([0]), self.shape_of(x, 1, 2), self.int64([0])]
        shape = (x.shape[1], x.channels)
        key = f"{name}.weight"
        table = self._rows(key, (rows, x.channels), "Slice", bounds, name, shape)
        return self.graph.node("Add", [x.name, table.name], f"{name}/sum", x.shape)

    def _rows(
        self, key: str, table: tuple[int, int], op: str, rest: list[str], name: str, shape: Shape
    ) -> Value:
        """Pick rows of a table as stored, then widen only those to float32."""
        self.ask(key, WeightNeed(table))
        picked = self.graph.node(op, [key, *rest], f"{name}/rows", shape)
        if stored_dtype(table, self.precision) == "float32":
            return picked
        return self.graph.node("Cast", [picked.name], f"{name}/wide", shape, to=FLOAT)

    def at_first(self, x: Value, ids: Value, token: int) -> Value:
        wanted = self.int64([token])
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
