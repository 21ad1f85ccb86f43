"""What each graph variant is written in: one row a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    norm_scale: Literal["none", "BatchNormalization", "Mul"]
    """What scales and shifts after it: ``BatchNormalization`` is fast, ``Mul`` needs no memory."""
    sigmoid_gate: Literal["Mul", "QuickGelu"]
    """How ``x * sigmoid(a x)`` is written."""


PLAIN = Target(23, 11, (), "Attention", "GroupNormalization", "none", "Mul")
"""Standard operations only: what other engines read."""

FUSED = Target(
    20,
    9,
    ("com.microsoft",),
    "MultiHeadAttention",
    "InstanceNormalization",
    "BatchNormalization",
    "QuickGelu",
)
"""For ONNX Runtime on CPU: what was measured to be fastest there."""

LEAN = replace(FUSED, norm_scale="Mul")
"""For the same where one activation is a large part of all memory."""

TARGETS = {"plain": PLAIN, "embeddings": PLAIN, "fused": FUSED, "segment": FUSED}
"""Target of each variant."""


def target_of(component: str, variant: str) -> Target:
    """The target of one graph."""
    if variant == "segment" and component.startswith("vae_"):
        return LEAN
    return TARGETS[variant]
