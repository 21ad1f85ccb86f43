"""What becomes of each weight of a component that is stored in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sdlite.manifest import Layer
from sdlite.types import Array, Float32
from sdlite_export.emit.graph import Graph

ENDS = ("conv_in", "conv_out", "post_quant_conv", "quant_conv")
"""Layers that read or write the latents or the picture: errors there are seen directly."""
EMBEDDINGS = ("time_embedding", "add_embedding", "time_emb_proj")
"""Layers of a few rows, whose error every place of the picture shares."""


@dataclass(frozen=True)
class Recipe:
    """How the tensors of a component are changed before they are stored."""

    layers: Mapping[str, Layer] = field(default_factory=dict)
    """Every layer, by the name of its weights."""
    factors: Mapping[str, Float32] = field(default_factory=dict)
    """Further tensors of the file: factors by which channels of others are multiplied."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """By tensor, the factors of its output channels."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """By tensor, the factors of its input channels."""
    shifts: Mapping[str, Float32] = field(default_factory=dict)
    """By tensor, what is added to it."""

    def changed(self, key: str, value: Array) -> Float32:
        """A tensor of the checkpoint with its factors and what is added, as float32."""
        found: Float32 = value.astype(np.float32)
        if key in self.rows:
            rows = self.factors[self.rows[key]]
            found *= rows.reshape(-1, *(1,) * (found.ndim - 1))
        if key in self.columns:
            columns = self.factors[self.columns[key]]
            found *= columns.reshape(-1, *(1,) * (found.ndim - 2))
        if key in self.shifts:
            found += self.shifts[key]
        return found

    def touches(self, key: str) -> bool:
        """Whether a tensor is stored otherwise than it is in the checkpoint."""
        return key in self.rows or key in self.columns or key in self.shifts


def kept_apart(name: str) -> str:
    """Why a layer is never computed in 8 bits; empty for all others."""
    parts = name.split(".")
    if parts[-1] in ENDS:
        return "first or last layer"
    if any(part in EMBEDDINGS for part in parts):
        return "embedding of the time"
    return ""


def weights_only(graph: Graph) -> Recipe:
    """Every layer but the sensitive ones with weights in 8 bits; needs no calibration."""
    layers = {}
    for name in graph.layers:
        why = kept_apart(name)
        layers[name] = Layer("fp16", why=why) if why else Layer("w8")
    return Recipe(layers)
