"""Attention over fewer tokens: graphs whose finest self-attentions see a quarter of them.

Queries stay, keys and values are those of every second row and column (token downsampling: ToDo,
Smith et al. 2024). Such a graph lies beside the usual one over the same weights, and is used where
a profile allows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sdlite.manifest import DOWNSAMPLED
from sdlite.package import Package
from sdlite.plans import Placement, Plan, RequestShape

LEAST_SHARE = 0.5
"""Part of the model's own picture area below which there are too few tokens to gain anything."""
FIELD = "Token downsampling"
"""What a picture's parameters call it."""
FACTOR = "2"
"""Of so many rows, and so many columns, one is kept."""


def why_not(package: Package, shape: RequestShape, runtime: str, mode: str) -> str:
    """Why a request is drawn with all tokens, though it may do with fewer; empty when it is not.

    Args:
        package: what is drawn with.
        shape: the request.
        runtime: engine of the U-Net.
        mode: memory mode.
    """
    unet = [a for a in package.manifest.artifacts if a.component == "unet"]
    if not any(artifact.variant.endswith(DOWNSAMPLED) for artifact in unet):
        return f"{package.manifest.name} has no graph for it, or too few tokens to gain anything"
    defaults = package.manifest.defaults
    if shape.width * shape.height < LEAST_SHARE * defaults.width * defaults.height:
        return f"{shape.width}x{shape.height} has too few tokens to gain anything"
    if shape.controls:
        return "the U-Net that follows controls has no such graph"
    if shape.tiling:
        return "the U-Net for seamless pictures has no such graph"
    if mode == "mapped":
        return f"{runtime} runs a chain of graphs in memory mode mapped, which has no such graph"
    return ""


def is_downsampled(placement: Placement) -> bool:
    """Whether a component's graph is one with fewer keys and values."""
    return any(artifact.variant.endswith(DOWNSAMPLED) for artifact in placement.artifacts)


def told(package: Package, made: Plan) -> Plan:
    """A plan with a reason or a note on its tokens, where its request may do with fewer."""
    if not made.shape.downsampled:
        return made
    unet = made.placement("unet")
    if is_downsampled(unet):
        reason = "attention over every second row and column of its finest tokens, for speed"
        return replace(made, reasons=(*made.reasons, reason))
    why = why_not(package, made.shape, unet.device.runtime, made.memory_mode)
    why = why or f"{unet.device.runtime} reads no such graph there is"
    return replace(made, notes=(*made.notes, f"attention's tokens are not downsampled: {why}"))


def fields(plans: Iterable[Plan]) -> dict[str, str]:
    """What the parameters of a picture say of it."""
    used = any(is_downsampled(plan.placement("unet")) for plan in plans)
    return {FIELD: FACTOR} if used else {}
