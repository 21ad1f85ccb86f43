"""What each graph variant is written in: one row a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sdlite.manifest import DOWNSAMPLED


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
    group_norm: Literal["GroupNormalization", "InstanceNormalization", "ReduceMean", "Half"]
    """Operation group normalisation is built on; ``Half`` is instance normalisation for float16."""
    sigmoid_gate: Literal["Mul", "QuickGelu"]
    """How ``x * sigmoid(a x)`` is written."""
    narrow_convs: bool = True
    """Whether inputs of convolutions are rounded to 8 bits where calibration gave a range."""

    def narrow_inputs(self, rank: int) -> bool:
        """Whether the input of a layer whose weight has ``rank`` axes is rounded to 8 bits."""
        return rank == 2 or self.narrow_convs


PLAIN = Target(23, 11, (), "Attention", "GroupNormalization", "Mul")
"""Standard operations only: what other engines read."""

FUSED = Target(
    20, 9, ("com.microsoft",), "MultiHeadAttention", "InstanceNormalization", "QuickGelu"
)
"""For ONNX Runtime on CPU: what was measured to be fastest there."""

FUSED_LARGE = replace(FUSED, group_norm="ReduceMean")
"""For the same where feature maps are pictures: its own mean over a million float32 values is off
by 1e-5 of their deviation, and a copy of an activation is a large part of all memory."""

HALF = replace(FUSED, group_norm="Half")
"""For ONNX Runtime on GPUs: computed in float16."""

TARGETS = {
    "plain": PLAIN,
    "embeddings": PLAIN,
    "seamless": PLAIN,
    f"plain{DOWNSAMPLED}": PLAIN,
    "fused": FUSED,
    f"fused{DOWNSAMPLED}": FUSED,
    "segment": FUSED,
    "tiles": FUSED,
    "half": HALF,
}
"""Target of each variant."""


def target_of(component: str, variant: str) -> Target:
    """The target of one graph."""
    target = TARGETS[variant]
    if component.startswith("text_encoder"):
        return PLAIN
    return FUSED_LARGE if target == FUSED and component.startswith("vae_") else target
