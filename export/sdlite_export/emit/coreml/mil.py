"""Calls of an architecture to a Core ML program, through coremltools' builder of MIL.

Everything has rank 4 with channels second, the layout the Neural Engine wants and the GPU runs as
well: maps are (batch, channels, height, width), tokens (batch, channels, 1, tokens), vectors
(batch, channels, 1, 1). Linear layers are then 1x1 convolutions, and maps become tokens by a
reshape. Inputs and outputs of the whole have the shapes of ``Ops`` and are float32; what passes
between chunks stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from sdlite.types import Array
from sdlite_export.emit.coreml.palette import Palette
from sdlite_export.emit.coreml.tape import Call, Piece, identifier
from sdlite_export.ops import Value

Attention = Literal["original", "split_einsum"]
Precision = Literal["fp16", "fp32"]
MASKED = -1e4
"""Added to scores of tokens that may not be seen: float16 holds it, and its exponential is 0."""

Weight = Callable[[str, str], Array | Palette]
"""Gives a weight by name, in one of ``LAYOUTS`` and in the program's precision."""

LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "source": lambda array: array,
    "linear": lambda array: array[:, :, None, None],
    "channels": lambda array: array[None, :, None, None],
    "positions": lambda array: array.T[None, :, None, :],
}
"""How a tensor of the state dict is arranged in a program."""


def physical(value: Value) -> tuple[int, ...]:
    """The shape of a value inside a program."""
    sizes = tuple(int(dim) for dim in value.shape)
    if len(sizes) == 4:
        return sizes
    if len(sizes) == 3:
        batch, tokens, channels = sizes
        return batch, channels, 1, tokens
    return (*sizes, 1, 1)


def build(piece: Piece, attention: Attention, precision: Precision, weight: Weight) -> Any:
    """A MIL program of a piece, for Core ML of macOS 13 and later."""
    return _Builder(piece, attention, precision, weight).build()


class _Builder:
    def __init__(
        self, piece: Piece, attention: Attention, precision: Precision, weight: Weight
    ) -> None:
        from coremltools.converters.mil.mil import Builder

        self.mb = Builder
        self.piece = piece
        self.split = attention == "split_einsum"
        self.precision = precision
        self.float: type[np.float16] | type[np.float32] = (
            np.float16 if precision == "fp16" else np.float32
        )
        self.weight = weight
        self.outside: dict[str, Any] = {}
        """Inputs of the whole by name, as they came."""
        self.vars: dict[str, Any] = {}
        """Values by name, with rank 4."""
        self.memo: dict[tuple[object, ...], Any] = {}

    def build(self) -> Any:
        import coremltools as ct
        from coremltools.converters.mil.mil import Function, Program, types

        # The builder numbers names through the whole process; files should not depend on that.
        self.mb.name_count.clear()
        dtypes = {"float32": types.fp32, "int64": types.int32}
        inner = types.fp16 if self.precision == "fp16" else types.fp32
        inputs = {
            value.name: self.mb.placeholder(
                shape=tuple(int(dim) for dim in value.shape), dtype=dtypes[value.dtype]
            )
            for value in self.piece.inputs
        }
        for value in self.piece.taken:
            inputs[value.name] = self.mb.placeholder(shape=physical(value), dtype=inner)
        program = Program()
        with Function(inputs, opset_version=ct.target.iOS16) as function:
            self.outside = {value.name: function.inputs[value.name] for value in self.piece.inputs}
            self.vars = {value.name: function.inputs[value.name] for value in self.piece.taken}
            for call in self.piece.calls:
                made = getattr(self, f"_{call.op}")(call, call.result.name)
                self.vars[call.result.name] = made
            given = [self.vars[value.name] for value in self.piece.given]
            outputs = [self._output(name, value) for name, value in self.piece.outputs]
            function.set_outputs([*given, *outputs])
        program.add_function("main", function)
        return program

    def _output(self, name: str, value: Value) -> Any:
        x = self.vars[value.name]
        if len(value.shape) == 3:
            x = self.mb.transpose(x=x, perm=[0, 3, 1, 2], name=f"{name}_last")
        if len(value.shape) < 4:
            x = self.mb.reshape(x=x, shape=list(value.shape), name=f"{name}_flat")
        if self.precision == "fp16":
            return self.mb.cast(x=x, dtype="fp32", name=name)
        return self.mb.identity(x=x, name=name)

    def _of(self, value: Value) -> Any:
        """A value with rank 4 and in the program's precision."""
        if value.name not in self.vars:
            x = self._narrow(self.outside[value.name], value.name)
            if len(value.shape) == 3:
                x = self.mb.transpose(x=x, perm=[0, 2, 1], name=f"{value.name}_channels")
            if len(value.shape) < 4:
                x = self.mb.reshape(x=x, shape=physical(value), name=f"{value.name}_wide")
            self.vars[value.name] = x
        return self.vars[value.name]

    def _narrow(self, x: Any, name: str) -> Any:
        if self.precision == "fp32":
            return x
        return self.mb.cast(x=x, dtype="fp16", name=f"{name}_fp16")

    def _const(self, key: str, layout: str = "source") -> Any:
        """A weight of the program; one that is used twice is stored once."""
        memo = (key, layout)
        if memo not in self.memo:
            name = identifier(key)
            weight = self.weight(key, layout)
            if isinstance(weight, Palette):
                self.memo[memo] = self.mb.constexpr_lut_to_dense(
                    indices=weight.indices,
                    lut=weight.colours.astype(self.float),
                    shape=np.array(weight.shape, np.uint32),
                    name=name,
                )
            else:
                self.memo[memo] = self.mb.const(val=weight, name=name)
        return self.memo[memo]

    def _same(self, value: Any) -> Any:
        """A small constant that many operations take; the builder would make one for each."""
        memo = ("same", repr(value))
        if memo not in self.memo:
            self.memo[memo] = self.mb.const(val=value, name=f"same_{len(self.memo)}")
        return self.memo[memo]

    def _convolved(self, x: Any, weight: Any, bias: Any, name: str, stride: int, pad: Any) -> Any:
        return self.mb.conv(
            x=x,
            weight=weight,
            bias=bias,
            strides=self._same([stride, stride]),
            pad_type=self._same("custom"),
            pad=self._same(list(pad)),
            dilations=self._same([1, 1]),
            groups=self._same(1),
            name=name,
        )

    def _conv(self, call: Call, name: str) -> Any:
        x, (weight, bias) = self._of(call.values[0]), map(self._const, call.weights)
        return self._convolved(x, weight, bias, name, call.options["stride"], call.options["pad"])

    def _linear(self, call: Call, name: str) -> Any:
        bias = self._const(call.weights[1]) if len(call.weights) > 1 else None
        weight = self._const(call.weights[0], "linear")
        return self._convolved(self._of(call.values[0]), weight, bias, name, 1, [0, 0, 0, 0])

    def _group_norm(self, call: Call, name: str) -> Any:
        mb, x = self.mb, self._of(call.values[0])
        batch, channels, height, width = physical(call.result)
        groups = call.options["groups"]
        # One operation instead of means of squares, which float16 cannot hold; and no side longer
        # than the Neural Engine takes.
        rows = channels // groups * height
        y = mb.reshape(x=x, shape=[batch, groups, rows, width], name=f"{name}_groups")
        eps = self.float(call.options["eps"])
        y = mb.instance_norm(x=y, epsilon=eps, name=f"{name}_normed")
        y = mb.reshape(x=y, shape=[batch, channels, height, width], name=f"{name}_map")
        y = mb.mul(x=y, y=self._const(call.weights[0], "channels"), name=f"{name}_scaled")
        return mb.add(x=y, y=self._const(call.weights[1], "channels"), name=name)

    def _layer_norm(self, call: Call, name: str) -> Any:
        return self.mb.layer_norm(
            x=self._of(call.values[0]),
            axes=[1],
            gamma=self._const(call.weights[0]),
            beta=self._const(call.weights[1]),
            epsilon=self.float(call.options["eps"]),
            name=name,
        )

    def _silu(self, call: Call, name: str) -> Any:
        return self.mb.silu(x=self._of(call.values[0]), name=name)

    def _gelu(self, call: Call, name: str) -> Any:
        return self.mb.gelu(x=self._of(call.values[0]), mode="EXACT", name=name)

    def _quick_gelu(self, call: Call, name: str) -> Any:
        x = self._of(call.values[0])
        inner = self.mb.mul(x=x, y=self.float(1.702), name=f"{name}_scaled")
        return self.mb.mul(x=x, y=self.mb.sigmoid(x=inner, name=f"{name}_gate"), name=name)

    def _add(self, call: Call, name: str) -> Any:
        a, b = map(self._of, call.values)
        return self.mb.add(x=a, y=b, name=name)

    # A vector has height and width 1, which spread over the map's.
    _add_to_map = _add

    def _gated_gelu(self, call: Call, name: str) -> Any:
        both = self._of(call.values[0])
        value, gate = self.mb.split(x=both, num_splits=2, axis=1, name=f"{name}_halves")
        gate = self.mb.gelu(x=gate, mode="EXACT", name=f"{name}_gate")
        return self.mb.mul(x=value, y=gate, name=name)

    def _attention(self, call: Call, name: str) -> Any:
        q, k, v = map(self._of, call.values)
        heads, causal = call.options["heads"], call.options["causal"]
        channels = q.shape[1]
        # Before the product, so that no score leaves float16's range.
        factor = self.float(1.0 / math.sqrt(channels // heads))
        q = self.mb.mul(x=q, y=factor, name=f"{name}_scaled")
        make = self._split_attention if self.split else self._whole_attention
        return make(name, q, k, v, heads, causal)

    def _whole_attention(self, name: str, q: Any, k: Any, v: Any, heads: int, causal: bool) -> Any:
        mb = self.mb
        batch, channels, _, tokens = q.shape
        q, k, v = (
            mb.reshape(
                x=x,
                shape=[batch, heads, channels // heads, x.shape[3]],
                name=f"{name}_{part}",
            )
            for part, x in (("q", q), ("k", k), ("v", v))
        )
        scores = mb.matmul(x=q, y=k, transpose_x=True, name=f"{name}_scores")
        if causal:
            scores = mb.add(x=scores, y=self._mask(tokens, False), name=f"{name}_masked")
        shares = mb.softmax(x=scores, axis=-1, name=f"{name}_shares")
        y = mb.matmul(x=v, y=shares, transpose_y=True, name=f"{name}_heads")
        return mb.reshape(x=y, shape=[batch, channels, 1, tokens], name=name)

    def _split_attention(self, name: str, q: Any, k: Any, v: Any, heads: int, causal: bool) -> Any:
        """Head by head, every tensor with its tokens last or channels last and nothing copied."""
        mb = self.mb
        tokens = q.shape[3]
        k = mb.transpose(x=k, perm=[0, 3, 2, 1], name=f"{name}_k")
        parts = [
            mb.split(x=x, num_splits=heads, axis=axis, name=f"{name}_{part}s") if heads > 1 else [x]
            for part, x, axis in (("q", q, 1), ("k", k, 3), ("v", v, 1))
        ]
        made = []
        for index, (qi, ki, vi) in enumerate(zip(*parts, strict=True)):
            head = f"{name}_{index}"
            scores = mb.einsum(values=[ki, qi], equation="nchw,nwhu->nchu", name=f"{head}_scores")
            if causal:
                scores = mb.add(x=scores, y=self._mask(tokens, True), name=f"{head}_masked")
            shares = mb.softmax(x=scores, axis=1, name=f"{head}_shares")
            made.append(
                mb.einsum(values=[vi, shares], equation="nchw,nwhu->nchu", name=f"{head}_head")
            )
        if heads == 1:
            return mb.identity(x=made[0], name=name)
        return mb.concat(values=made, axis=1, name=name)

    def _mask(self, tokens: int, split: bool) -> Any:
        memo = ("mask", tokens)
        if memo not in self.memo:
            mask = np.triu(np.full((tokens, tokens), MASKED, self.float), 1)
            arranged = mask.T[None, :, None, :] if split else mask[None, None]
            self.memo[memo] = self.mb.const(
                val=np.ascontiguousarray(arranged), name=f"mask_{tokens}"
            )
        return self.memo[memo]

    def _concat(self, call: Call, name: str) -> Any:
        return self.mb.concat(values=[self._of(value) for value in call.values], axis=1, name=name)

    def _upsample(self, call: Call, name: str) -> Any:
        x = self._of(call.values[0])
        height, width = physical(call.result)[2:]
        y = self.mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=2, scale_factor_width=2, name=f"{name}_twice"
        )
        if (height, width) == tuple(y.shape[2:]):
            return self.mb.identity(x=y, name=name)
        # Nearest neighbour to 2 n - 1 is nearest neighbour to 2 n without the last.
        begin, end = [0, 0, 0, 0], [*y.shape[:2], height, width]
        return self.mb.slice_by_index(x=y, begin=begin, end=end, name=name)

    def _to_tokens(self, call: Call, name: str) -> Any:
        return self.mb.reshape(x=self._of(call.values[0]), shape=physical(call.result), name=name)

    _to_map = _to_tokens

    def _timestep_embedding(self, call: Call, name: str) -> Any:
        """In float32 whatever the program's precision: float16 holds 999 to the nearest half."""
        mb = self.mb
        (timestep,) = call.values
        half = call.options["channels"] // 2
        # Rounded as the models saw them in training: torch computes these in float32.
        steps = np.arange(half, dtype=np.float32)
        scale = np.float32(-math.log(10000.0)) / np.float32(half - call.options["shift"])
        x = mb.expand_dims(x=self.outside[timestep.name], axes=[-1], name=f"{name}_column")
        angle = mb.mul(x=x, y=np.exp(scale * steps)[None], name=f"{name}_angle")
        sine, cosine = mb.sin(x=angle, name=f"{name}_sin"), mb.cos(x=angle, name=f"{name}_cos")
        parts = [cosine, sine] if call.options["flip"] else [sine, cosine]
        y = mb.concat(values=parts, axis=-1, name=f"{name}_both")
        y = mb.reshape(x=y, shape=physical(call.result), name=f"{name}_wide")
        return self._narrow(y, name)

    def _embedding(self, call: Call, name: str) -> Any:
        ids = self.outside[call.values[0].name]
        rows = self.mb.gather(
            x=self._const(call.weights[0]), indices=ids, axis=0, name=f"{name}_rows"
        )
        y = self.mb.transpose(x=rows, perm=[0, 2, 1], name=f"{name}_channels")
        return self.mb.reshape(x=y, shape=physical(call.result), name=name)

    def _add_positions(self, call: Call, name: str) -> Any:
        x = self._of(call.values[0])
        table = self._const(call.weights[0], "positions")
        if table.shape[3] != x.shape[3]:
            end = [1, x.shape[1], 1, x.shape[3]]
            table = self.mb.slice_by_index(x=table, begin=[0] * 4, end=end, name=f"{name}_rows")
        return self.mb.add(x=x, y=table, name=name)

    def _at_first(self, call: Call, name: str) -> Any:
        mb = self.mb
        x, ids = self._of(call.values[0]), self.outside[call.values[1].name]
        batch, tokens = ids.shape
        hits = mb.cast(
            x=mb.equal(x=ids, y=np.int32(call.options["token"]), name=f"{name}_equal"),
            dtype=self.precision,
            name=f"{name}_hits",
        )
        # The first hit has the largest number: that of the tokens from there on.
        falling = np.arange(tokens, 0, -1).astype(self.float)[None]
        ranked = mb.mul(x=hits, y=falling, name=f"{name}_ranked")
        most = mb.reduce_max(x=ranked, axes=[1], keep_dims=True, name=f"{name}_most")
        first = mb.cast(
            x=mb.equal(x=ranked, y=most, name=f"{name}_is_first"),
            dtype=self.precision,
            name=f"{name}_first",
        )
        first = mb.reshape(x=first, shape=[batch, 1, 1, tokens], name=f"{name}_place")
        y = mb.mul(x=x, y=first, name=f"{name}_only")
        return mb.reduce_sum(x=y, axes=[3], keep_dims=True, name=name)
