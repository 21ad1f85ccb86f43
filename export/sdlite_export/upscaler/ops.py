"""Operations of upscaler networks beyond those of diffusion models.

Feature maps are ``(1, channels, height, width)``. What SwinIR works on is a grid of tokens without
a batch axis, ``(height, width, channels)``, and windows of it, ``(windows, tokens, channels)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sdlite_export.ops import Dim, Ops, Value


class UpscalerOps(Ops, Protocol):
    """What an emitter for upscalers offers."""

    def leaky_relu(self, x: Value, slope: float) -> Value:
        """``x`` where positive, else ``slope * x``."""
        ...

    def prelu(self, x: Value, name: str) -> Value:
        """The same with a learned slope for each channel."""
        ...

    def scaled(self, x: Value, factor: float) -> Value:
        """Every value times a constant."""
        ...

    def shifted(self, x: Value, offsets: Sequence[float]) -> Value:
        """A feature map plus a constant for each channel."""
        ...

    def pixel_shuffle(self, x: Value, factor: int, size: tuple[Dim, Dim]) -> Value:
        """Channels ``(c, factor, factor)`` to places (Shi et al. 2016); ``size`` names them."""
        ...

    def pixel_unshuffle(self, x: Value, factor: int, size: tuple[Dim, Dim]) -> Value:
        """The inverse of ``pixel_shuffle``."""
        ...

    def enlarge(self, x: Value, factor: int, size: tuple[Dim, Dim]) -> Value:
        """Nearest neighbour to ``factor`` times the size."""
        ...

    def to_grid(self, x: Value) -> Value:
        """Feature map to a grid of tokens."""
        ...

    def from_grid(self, x: Value) -> Value:
        """A grid of tokens back to a feature map."""
        ...

    def windows(self, x: Value, window: int, shift: int) -> Value:
        """Cut a grid, rolled up and left by ``shift``, into square windows."""
        ...

    def from_windows(self, x: Value, window: int, shift: int, like: Value) -> Value:
        """The inverse of ``windows``; ``like`` is a grid of the same size."""
        ...

    def window_attention(
        self, x: Value, name: str, heads: int, window: int, shift: int, grid: Value
    ) -> Value:
        """Attention within windows with a learned bias by relative position (Liu et al. 2021).

        Weights are ``name.qkv``, ``name.relative_position_bias_table`` and ``name.proj``. With a
        ``shift`` what the roll brought together from opposite edges of ``grid`` is kept apart.
        """
        ...
