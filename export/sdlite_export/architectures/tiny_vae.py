"""The tiny autoencoder TAESD (Bohan 2023, madebyollin/taesd), named as diffusers names it.

It works on latents as the U-Net sees them, scaled already, and needs no attention and no norms. One
list of layers each way: convolutions, blocks of three, and in the decoder doublings of the size.
"""

from __future__ import annotations

from sdlite_export.configs import TinyVaeConfig
from sdlite_export.ops import Dim, TinyOps, Value

LATENT_LIMIT = 3.0
"""The decoder softly limits latents to this magnitude."""


def tiny_decoder(ops: TinyOps, config: TinyVaeConfig) -> None:
    """Build the decoder.

    Input: ``latent_sample`` (batch, latent_channels, height, width), as the U-Net sees them.
    Output: ``sample`` (batch, 3, image_height, image_width), about -1 to 1.
    """
    x = ops.input("latent_sample", ("batch", config.latent_channels, "height", "width"))
    x = ops.affine(ops.tanh(ops.affine(x, 1 / LATENT_LIMIT)), LATENT_LIMIT)
    x = ops.relu(ops.conv(x, "decoder.layers.0", config.channels))
    index, last = 2, len(config.blocks) - 1
    for level, blocks in enumerate(config.blocks):
        for _ in range(blocks):
            x = _block(ops, x, f"decoder.layers.{index}")
            index += 1
        if level < last:
            x = ops.upsample(x, _size(last, last - level - 1))
            x = ops.plain_conv(x, f"decoder.layers.{index + 1}", config.channels)
            index += 2
    x = ops.conv(x, f"decoder.layers.{index}", 3)
    ops.output("sample", ops.affine(x, 2.0, -1.0))


def tiny_encoder(ops: TinyOps, config: TinyVaeConfig) -> None:
    """Build the encoder.

    Input: ``sample`` (batch, 3, image_height, image_width) in -1 to 1. Output: ``latent_sample``
    (batch, latent_channels, height, width), as the U-Net sees them.
    """
    last = len(config.blocks) - 1
    x = ops.input("sample", ("batch", 3, *_size(last, 0)))
    x = ops.conv(ops.affine(x, 0.5, 0.5), "encoder.layers.0", config.channels)
    index = 1
    for level, blocks in enumerate(reversed(config.blocks)):
        for _ in range(blocks):
            x = _block(ops, x, f"encoder.layers.{index}")
            index += 1
        if level < last:
            size = _size(last, level + 1)
            name = f"encoder.layers.{index}"
            x = ops.plain_conv(x, name, config.channels, stride=2, size=size)
            index += 1
    ops.output("latent_sample", ops.conv(x, f"encoder.layers.{index}", config.latent_channels))


def _block(ops: TinyOps, x: Value, name: str) -> Value:
    y = ops.relu(ops.conv(x, f"{name}.conv.0", x.channels))
    y = ops.relu(ops.conv(y, f"{name}.conv.2", x.channels))
    y = ops.conv(y, f"{name}.conv.4", x.channels)
    return ops.relu(ops.add(x, y))


def _size(last: int, level: int) -> tuple[Dim, Dim]:
    """Names of height and width at a level of the pyramid: 0 is the picture, ``last`` the latents.

    They are the names the other autoencoder's graphs have.
    """
    if level == last:
        return "height", "width"
    if level == 0:
        return "image_height", "image_width"
    return f"image_height_{1 << level}", f"image_width_{1 << level}"
