"""The operations architectures are written in, and the values that flow between them.

An architecture calls an ``Ops`` with values and with the names of the weights, as diffusers names
them in its state dicts; an emitter implements ``Ops`` for one file format. Feature maps are
``(batch, channels, height, width)``, token sequences ``(batch, tokens, channels)``, both float32.
No operation knows a size at run time except channels: batch, height, width, tokens stay free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Dim: TypeAlias = int | str
Shape: TypeAlias = tuple[Dim, ...]
Dtype: TypeAlias = Literal["float32", "float16", "int64", "uint8"]


@dataclass(frozen=True)
class Value:
    """One tensor of the graph under construction."""

    name: str
    """Unique within the graph."""
    shape: Shape
    """Sizes; strings name those known only at run time."""
    dtype: Dtype = "float32"
    """Element type."""

    @property
    def channels(self) -> int:
        """Channels of a feature map (axis 1) or of tokens (last axis)."""
        size = self.shape[1] if len(self.shape) == 4 else self.shape[-1]
        if not isinstance(size, int):
            raise TypeError(f"{self.name} has no fixed number of channels: {self.shape}")
        return size


class Ops(Protocol):
    """What an emitter offers. ``name`` prefixes the weights' names: ``name.weight`` ..."""

    def input(
        self, name: str, shape: Shape, dtype: Literal["float32", "int64"] = "float32"
    ) -> Value:
        """Declare an input of the whole graph."""
        ...

    def output(self, name: str, x: Value) -> None:
        """Declare ``x`` an output of the whole graph, called ``name``."""
        ...

    def cut(self) -> None:
        """Allow a chain of graphs to be cut here: few and small tensors are alive."""
        ...

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
        """2-D convolution with bias to ``channels``.

        ``padding`` is (top, left, bottom, right), half the kernel by default; ``size`` names
        height and width of the result where they differ from the input's.
        """
        ...

    def linear(self, x: Value, name: str, channels: int, bias: bool = True) -> Value:
        """``x @ weight.T + bias`` over the last axis."""
        ...

    def group_norm(self, x: Value, name: str, groups: int, eps: float, silu: bool = False) -> Value:
        """Group normalisation of a feature map with scale and shift; then SiLU if asked."""
        ...

    def layer_norm(self, x: Value, name: str, eps: float) -> Value:
        """Layer normalisation over the last axis with scale and shift."""
        ...

    def silu(self, x: Value) -> Value:
        """``x * sigmoid(x)``."""
        ...

    def gelu(self, x: Value) -> Value:
        """Exact GELU, ``x * (1 + erf(x / sqrt 2)) / 2``."""
        ...

    def quick_gelu(self, x: Value) -> Value:
        """``x * sigmoid(1.702 x)``, as OpenAI's CLIP has it."""
        ...

    def add(self, a: Value, b: Value) -> Value:
        """Sum of two values of the same shape."""
        ...

    def add_to_map(self, x: Value, vector: Value) -> Value:
        """Add ``(batch, channels)`` to every place of a feature map."""
        ...

    def gated_gelu(self, x: Value, name: str, channels: int) -> Value:
        """GEGLU: a linear layer to twice ``channels``, first half times GELU of the second."""
        ...

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        """Scaled dot-product attention of token sequences, scale 1 / sqrt(channels / heads)."""
        ...

    def concat(self, a: Value, b: Value) -> Value:
        """Join two feature maps, or two vectors, over channels."""
        ...

    def upsample(self, x: Value, size: tuple[Dim, Dim], like: Value | None = None) -> Value:
        """Nearest neighbour to the height and width of ``like``, or to twice its own size.

        ``size`` names the resulting height and width.
        """
        ...

    def to_tokens(self, x: Value) -> Value:
        """Feature map to tokens, row by row."""
        ...

    def to_map(self, x: Value, like: Value) -> Value:
        """Tokens back to a feature map of the height and width of ``like``."""
        ...

    def timestep_embedding(self, timestep: Value, channels: int, flip: bool, shift: float) -> Value:
        """Sinusoidal embedding of ``(batch,)`` to ``(batch, channels)`` (DDPM, Ho et al. 2020).

        Several numbers ``(batch, n)`` are embedded side by side, to ``(batch, n * channels)``.
        Frequencies ``10000 ** (-i / (channels / 2 - shift))``; sines first unless ``flip``.
        """
        ...

    def embedding(self, ids: Value, name: str, rows: int, channels: int) -> Value:
        """Rows of a table by token id."""
        ...

    def add_positions(self, x: Value, name: str, rows: int) -> Value:
        """Add the first rows of a position table to tokens."""
        ...

    def at_first(self, x: Value, ids: Value, token: int) -> Value:
        """Tokens ``(batch, tokens, channels)`` at the first place where ``ids`` is ``token``."""
        ...


class TileOps(Ops, Protocol):
    """What an emitter that writes graphs for tiles offers besides."""

    def given_norm(self, x: Value, name: str, groups: int, eps: float) -> Value:
        """Group normalisation and SiLU of a part of a map, by the whole map's statistics.

        They become inputs of the graph, ``<map>/mean`` and ``<map>/variance``, ``(groups,)`` each.
        """
        ...


class TinyOps(Ops, Protocol):
    """What an emitter that writes tiny autoencoders offers besides."""

    def relu(self, x: Value) -> Value:
        """``max(x, 0)``."""
        ...

    def tanh(self, x: Value) -> Value:
        """Hyperbolic tangent."""
        ...

    def affine(self, x: Value, factor: float, offset: float = 0.0) -> Value:
        """``factor * x + offset``."""
        ...

    def plain_conv(
        self,
        x: Value,
        name: str,
        channels: int,
        stride: int = 1,
        size: tuple[Dim, Dim] | None = None,
    ) -> Value:
        """3x3 convolution without bias; ``size`` as in ``conv``."""
        ...


class DownsamplingOps(Ops, Protocol):
    """What an emitter that writes graphs with fewer keys and values offers besides."""

    def every_second(self, x: Value, like: Value, size: tuple[Dim, Dim]) -> Value:
        """Tokens of every second row and column of a map of the height and width of ``like``.

        ``size`` names the height and width that are left, halves rounded up.
        """
        ...
