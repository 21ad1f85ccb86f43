"""The ControlNet of Zhang, Rao and Agrawala 2023, named as diffusers names it."""

from __future__ import annotations

from sdlite_export.architectures.unet import Unet
from sdlite_export.configs import ControlNetConfig
from sdlite_export.ops import Dim, Ops, Value

RESIDUAL = "down_residual_{}"
"""What is added to a skip of the U-Net, counted in the order the way down makes them."""
MIDDLE = "mid_residual"
"""What is added to the end of its middle."""


def controlnet(ops: Ops, config: ControlNetConfig, pooled: int | None = None) -> None:
    """Build the network that follows a picture.

    Inputs: those of the U-Net, and ``controlnet_cond`` (batch, 3, image_height, image_width), 0 to
    1. Outputs: ``down_residual_0`` ... and ``mid_residual``, shaped like the U-Net's skips and
    middle, not yet scaled. Cuts are allowed as in a U-Net.
    """
    network = Unet(ops, config.unet)
    first = config.unet.block_channels[0]
    x = ops.conv(network.start(pooled), "conv_in", first)
    x, skips = network.down(ops.add(x, _picture(ops, config, first)))
    x = network.middle(x)
    for index, skip in enumerate(skips):
        name = f"controlnet_down_blocks.{index}"
        ops.output(RESIDUAL.format(index), ops.conv(skip, name, skip.channels, kernel=1))
    ops.output(MIDDLE, ops.conv(x, "controlnet_mid_block", x.channels, kernel=1))


def _picture(ops: Ops, config: ControlNetConfig, channels: int) -> Value:
    """The picture at the size of the latents."""
    name = "controlnet_cond_embedding"
    x = ops.input("controlnet_cond", ("batch", 3, "image_height", "image_width"))
    x = ops.silu(ops.conv(x, f"{name}.conv_in", config.embedding[0]))
    last = len(config.embedding) - 1
    for level in range(last):
        block = f"{name}.blocks.{2 * level}"
        x = ops.silu(ops.conv(x, block, config.embedding[level]))
        block = f"{name}.blocks.{2 * level + 1}"
        size = _size(level + 1, last)
        x = ops.silu(ops.conv(x, block, config.embedding[level + 1], stride=2, size=size))
        ops.cut()
    return ops.conv(x, f"{name}.conv_out", channels)


def _size(level: int, last: int) -> tuple[Dim, Dim]:
    if level == last:
        return "height", "width"
    return f"image_height_{1 << level}", f"image_width_{1 << level}"
