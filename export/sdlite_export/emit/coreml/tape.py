"""An architecture written down as a list of calls, every size known; nothing is built yet.

Core ML programs are of fixed sizes, name their inputs before their first operation, and may be cut
into chunks. So an architecture is first written down; what is alive at a place, what a chunk takes
and how many bytes of weights it has follow from the list. The public methods of ``Tape`` are
documented by ``Ops``.
"""
# ruff: noqa: D102

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any, Literal

from sdlite_export.emit.graph import WeightNeed
from sdlite_export.ops import Dim, Shape, Value


@dataclass(frozen=True)
class Call:
    """One operation of an architecture."""

    op: str
    """Name of the method of ``Ops``."""
    result: Value
    """What it gives."""
    values: tuple[Value, ...]
    """The values it takes, in the order of the method's parameters."""
    weights: tuple[str, ...]
    """Names of the weights it uses."""
    segment: int
    """Number of cuts allowed before it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The rest of its arguments."""


@dataclass(frozen=True)
class Piece:
    """Calls that become one program."""

    calls: Sequence[Call]
    """In order."""
    inputs: tuple[Value, ...]
    """Inputs of the whole that it takes."""
    taken: tuple[Value, ...]
    """Values of earlier pieces that it takes."""
    given: tuple[Value, ...]
    """Values it makes that later pieces take."""
    outputs: tuple[tuple[str, Value], ...]
    """Outputs of the whole that it makes, by name."""


class Tape:
    """``Ops`` that writes calls down; ``sizes`` gives every free dimension its value."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.calls: list[Call] = []
        self.inputs: list[Value] = []
        self.outputs: list[tuple[str, Value]] = []
        self.weights: dict[str, WeightNeed] = {}
        self._sizes = sizes
        self._segment = 0
        self._uses: dict[str, int] = {}

    def input(
        self, name: str, shape: Shape, dtype: Literal["float32", "int64"] = "float32"
    ) -> Value:
        sizes = tuple(self._sizes[dim] if isinstance(dim, str) else dim for dim in shape)
        value = Value(self._unique(name), sizes, dtype)
        self.inputs.append(value)
        return value

    def output(self, name: str, x: Value) -> None:
        self.outputs.append((name, x))

    def cut(self) -> None:
        self._segment += 1

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
        top, left, bottom, right = padding or (kernel // 2,) * 4
        height, width = _numbers(x.shape[2:])
        shape = (
            x.shape[0],
            channels,
            (height + top + bottom - kernel) // stride + 1,
            (width + left + right - kernel) // stride + 1,
        )
        weights = {"weight": (channels, x.channels, kernel, kernel), "bias": (channels,)}
        pad = (top, bottom, left, right)
        return self._call("conv", [x], shape, name, weights, stride=stride, pad=pad)

    def linear(self, x: Value, name: str, channels: int, bias: bool = True) -> Value:
        weights: dict[str, tuple[int, ...]] = {"weight": (channels, x.channels)}
        if bias:
            weights["bias"] = (channels,)
        return self._call("linear", [x], (*x.shape[:-1], channels), name, weights)

    def group_norm(self, x: Value, name: str, groups: int, eps: float, silu: bool = False) -> Value:
        weights = {"weight": (x.channels,), "bias": (x.channels,)}
        y = self._call("group_norm", [x], x.shape, name, weights, groups=groups, eps=eps)
        return self.silu(y) if silu else y

    def layer_norm(self, x: Value, name: str, eps: float) -> Value:
        weights = {"weight": (x.channels,), "bias": (x.channels,)}
        return self._call("layer_norm", [x], x.shape, name, weights, eps=eps)

    def silu(self, x: Value) -> Value:
        return self._call("silu", [x], x.shape)

    def gelu(self, x: Value) -> Value:
        return self._call("gelu", [x], x.shape)

    def quick_gelu(self, x: Value) -> Value:
        return self._call("quick_gelu", [x], x.shape)

    def add(self, a: Value, b: Value) -> Value:
        return self._call("add", [a, b], a.shape)

    def add_to_map(self, x: Value, vector: Value) -> Value:
        return self._call("add_to_map", [x, vector], x.shape)

    def gated_gelu(self, x: Value, name: str, channels: int) -> Value:
        both = self.linear(x, name, 2 * channels)
        return self._call("gated_gelu", [both], (*x.shape[:-1], channels))

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        return self._call("attention", [q, k, v], q.shape, heads=heads, causal=causal)

    def concat(self, a: Value, b: Value) -> Value:
        shape = (a.shape[0], a.channels + b.channels, *a.shape[2:])
        return self._call("concat", [a, b], shape)

    def upsample(self, x: Value, size: tuple[Dim, Dim], like: Value | None = None) -> Value:
        height, width = _numbers(x.shape[2:] if like is None else like.shape[2:])
        if like is None:
            height, width = 2 * height, 2 * width
        # Only its size counts: taken as a value, ``like`` would be carried across cuts.
        return self._call("upsample", [x], (*x.shape[:2], height, width))

    def to_tokens(self, x: Value) -> Value:
        batch, channels, height, width = _numbers(x.shape)
        return self._call("to_tokens", [x], (batch, height * width, channels))

    def to_map(self, x: Value, like: Value) -> Value:
        return self._call("to_map", [x], (x.shape[0], x.channels, *like.shape[2:]))

    def timestep_embedding(self, timestep: Value, channels: int, flip: bool, shift: float) -> Value:
        wide = channels * prod(_numbers(timestep.shape[1:]))
        return self._call(
            "timestep_embedding",
            [timestep],
            (timestep.shape[0], wide),
            channels=channels,
            flip=flip,
            shift=shift,
        )

    def embedding(self, ids: Value, name: str, rows: int, channels: int) -> Value:
        return self._call(
            "embedding", [ids], (*ids.shape, channels), name, {"weight": (rows, channels)}
        )

    def add_positions(self, x: Value, name: str, rows: int) -> Value:
        return self._call("add_positions", [x], x.shape, name, {"weight": (rows, x.channels)})

    def at_first(self, x: Value, ids: Value, token: int) -> Value:
        return self._call("at_first", [x, ids], (x.shape[0], x.channels), token=token)

    def pieces(self, count: int = 1) -> list[Piece]:
        """Cut into ``count`` pieces of about the same bytes of weights.

        Raises ``ValueError`` when there are not that many places to cut at.
        """
        bounds = [0, *self._bounds(count), len(self.calls)]
        outside = {value.name for value in self.inputs}
        pieces = []
        for start, stop in pairwise(bounds):
            run = self.calls[start:stop]
            made = {call.result.name: call.result for call in run}
            used = {value.name: value for call in run for value in call.values}
            later = {value.name for call in self.calls[stop:] for value in call.values}
            pieces.append(
                Piece(
                    run,
                    tuple(value for value in self.inputs if value.name in used),
                    tuple(
                        v for name, v in used.items() if name not in made and name not in outside
                    ),
                    tuple(value for name, value in made.items() if name in later),
                    tuple((name, value) for name, value in self.outputs if value.name in made),
                )
            )
        return pieces

    def _bounds(self, count: int) -> list[int]:
        """Numbers of calls before each cut."""
        places = [
            index
            for index in range(1, len(self.calls))
            if self.calls[index].segment != self.calls[index - 1].segment
        ]
        sizes = [0]
        seen: set[str] = set()
        for call in self.calls:
            new = [key for key in call.weights if key not in seen]
            seen.update(new)
            sizes.append(sizes[-1] + sum(prod(self.weights[key].shape) for key in new))
        wanted = [sizes[-1] * part / count for part in range(1, count)]
        found: list[int] = []
        for share in wanted:
            left = [place for place in places if not found or place > found[-1]]
            if not left:
                raise ValueError(f"it cannot be cut into {count} pieces")
            found.append(min(left, key=lambda place: abs(sizes[place] - share)))
        return found

    def _call(
        self,
        op: str,
        values: list[Value],
        shape: Shape,
        name: str = "",
        weights: Mapping[str, tuple[int, ...]] | None = None,
        **options: Any,
    ) -> Value:
        keys = []
        for part, size in (weights or {}).items():
            keys.append(f"{name}.{part}")
            self.weights.setdefault(keys[-1], WeightNeed(size))
        result = Value(self._unique(f"{name}_{op}" if name else op), shape)
        self.calls.append(
            Call(op, result, tuple(values), tuple(keys), self._segment, dict(options))
        )
        return result

    def _unique(self, stem: str) -> str:
        name = identifier(stem)
        count = self._uses.get(name, 0)
        self._uses[name] = count + 1
        return f"{name}_{count}" if count else name


def identifier(text: str) -> str:
    """Text as a name Core ML takes: letters, digits and underscores."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def _numbers(shape: Sequence[Dim]) -> tuple[int, ...]:
    return tuple(int(dim) for dim in shape)
