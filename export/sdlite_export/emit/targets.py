"""What each graph variant is written in: one row a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Target:
    """Operation choices of one graph variant."""

    opset: int
    """Opset of the default domain."""
    ir_version: int
    """ONNX intermediate representation version that goes with it."""
    domains: tuple[str, ...]
    """Operator domains beyond ONNX's own."""
    attention: Literal["Attention", "MultiHeadAttention"]
    """Operation for attention."""
    group_norm: Literal["GroupNormalization", "InstanceNormalization"]
    """Operation group normalisation is built on."""
    sigmoid_gate: Literal["Mul", "QuickGelu"]
    """How ``x * sigmoid(a x)`` is written."""


PLAIN = Target(23, 11, (), "Attention", "GroupNormalization", "Mul")
"""Standard operations only: what other engines read."""

FUSED = Target(
    20, 9, ("com.microsoft",), "MultiHeadAttention", "InstanceNormalization", "QuickGelu"
)
"""For ONNX Runtime on CPU."""

TARGETS = {"plain": PLAIN, "embeddings": PLAIN, "fused": FUSED, "segment": FUSED}
"""Target of each variant."""
