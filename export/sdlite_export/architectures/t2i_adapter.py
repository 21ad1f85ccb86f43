"""The T2I-Adapter of Mou et al. 2023, named as diffusers names it."""

from __future__ import annotations

from typing import Protocol

from sdlite_export.configs import T2IAdapterConfig
from sdlite_export.ops import Dim, Ops, Value

FEATURE = "adapter_feature_{}"
"""What is added to the hidden state at each level of the U-Net, and last to the end of its
middle."""


class PoolOps(Ops, Protocol):
    """What a T2I-Adapter needs beyond a U-Net."""

    def relu(self, x: Value) -> Value:
        """``max(x, 0)``."""
        ...

    def halve(self, x: Value, size: tuple[Dim, Dim]) -> Value:
        """The mean of every two by two cells; ``size`` is half, rounded up."""
        ...


def t2i_adapter(ops: PoolOps, config: T2IAdapterConfig) -> None:
    """Build the network.

    Input: ``control_cells`` (batch, in_channels x factor x factor, height, width), the picture, 0
    to 1, whose pixels of a cell are channels (pixel unshuffle; height and width are counted in its
    own cells). Outputs: ``adapter_feature_0`` ... (batch, channels, ...).
    """
    cells = config.in_channels * config.factor**2
    x = ops.input("control_cells", ("batch", cells, "height", "width"))
    if config.kind != "light":
        x = ops.conv(x, "adapter.conv_in", config.channels[0])
    level = 0
    for index, (channels, halved) in enumerate(zip(config.channels, config.halved, strict=True)):
        name = f"adapter.body.{index}"
        if halved:
            level += 1
            x = ops.halve(x, (f"height_{1 << level}", f"width_{1 << level}"))
        inner = channels // 4 if config.kind == "light" else channels
        if config.kind == "light" or x.channels != inner:
            x = ops.conv(x, f"{name}.in_conv", inner, kernel=1)
        kernel = 3 if config.kind == "light" else 1
        for layer in range(config.blocks):
            block = f"{name}.resnets.{layer}"
            y = ops.relu(ops.conv(x, f"{block}.block1", inner))
            x = ops.add(ops.conv(y, f"{block}.block2", inner, kernel=kernel), x)
        if config.kind == "light":
            x = ops.conv(x, f"{name}.out_conv", channels, kernel=1)
        ops.output(FEATURE.format(index), x)
