"""The KL autoencoder of latent diffusion (Rombach et al. 2022), named as diffusers names it."""

from __future__ import annotations

from sdlite_export.configs import VaeConfig
from sdlite_export.ops import Dim, Ops, TileOps, Value

EPS = 1e-6


def vae_decoder(ops: Ops, config: VaeConfig) -> None:
    """Build the decoder.

    Input: ``latent_sample`` (batch, latent_channels, height, width), divided by the scale already.
    Output: ``sample`` (batch, out_channels, image_height, image_width), about -1 to 1.
    """
    levels = len(config.block_channels)
    x = _latents(ops, config)
    for block in range(levels):
        level = levels - 1 - block
        channels = config.block_channels[level]
        name = f"decoder.up_blocks.{block}"
        for index in range(config.layers_per_block + 1):
            x = _resnet(ops, config, x, f"{name}.resnets.{index}", channels)
        if level > 0:
            x = ops.upsample(x, _size(levels, level - 1))
            # No cut here: what crosses one stays until the next graph has run.
            x = ops.conv(x, f"{name}.upsamplers.0.conv", channels)
    x = ops.group_norm(x, "decoder.conv_norm_out", config.norm_groups, EPS, silu=True)
    ops.output("sample", ops.conv(x, "decoder.conv_out", config.out_channels))


def vae_encoder(ops: Ops, config: VaeConfig) -> None:
    """Build the encoder.

    Input: ``sample`` (batch, in_channels, image_height, image_width) in -1 to 1. Output:
    ``latent_parameters`` (batch, 2 * latent_channels, height, width): mean, then log-variance.
    """
    levels = len(config.block_channels)
    x = ops.input("sample", ("batch", config.in_channels, *_size(levels, 0)))
    x = ops.conv(x, "encoder.conv_in", config.block_channels[0])
    for level, channels in enumerate(config.block_channels):
        name = f"encoder.down_blocks.{level}"
        for index in range(config.layers_per_block):
            x = _resnet(ops, config, x, f"{name}.resnets.{index}", channels)
        if level < levels - 1:
            # diffusers pads only below and to the right here.
            x = ops.conv(
                x,
                f"{name}.downsamplers.0.conv",
                channels,
                stride=2,
                padding=(0, 0, 1, 1),
                size=_size(levels, level + 1),
            )
            ops.cut()
    x = _middle(ops, config, x, "encoder.mid_block")
    _moments(ops, config, x)


def vae_decoder_tiles(ops: TileOps, config: VaeConfig) -> None:
    """Build the decoder as a chain whose graphs take any band of rows.

    What works at the size of the latents comes first, whole: attention sees everything. After that
    every graph begins with at most one normalisation, whose statistics it is given, and looks one
    row beyond its own. Ports as in ``vae_decoder``.
    """
    levels = len(config.block_channels)
    x = _latents(ops, config)
    for block in range(levels):
        level = levels - 1 - block
        channels = config.block_channels[level]
        name = f"decoder.up_blocks.{block}"
        for index in range(config.layers_per_block + 1):
            part = f"{name}.resnets.{index}"
            if block == 0:
                x = _resnet(ops, config, x, part, channels)
            else:
                x = _resnet_tiles(ops, config, x, part, channels)
        if level > 0:
            ops.cut()
            x = ops.upsample(x, _size(levels, level - 1))
            x = ops.conv(x, f"{name}.upsamplers.0.conv", channels)
    ops.cut()
    x = ops.given_norm(x, "decoder.conv_norm_out", config.norm_groups, EPS)
    ops.output("sample", ops.conv(x, "decoder.conv_out", config.out_channels))


def vae_encoder_tiles(ops: TileOps, config: VaeConfig) -> None:
    """Build the encoder as such a chain; here the last graphs work on whole maps. Ports as in
    ``vae_encoder``.

    Halving looks two rows beyond its own, so that every band begins at an even row.
    """
    levels = len(config.block_channels)
    x = ops.input("sample", ("batch", config.in_channels, *_size(levels, 0)))
    x = ops.conv(x, "encoder.conv_in", config.block_channels[0])
    for level, channels in enumerate(config.block_channels):
        name = f"encoder.down_blocks.{level}"
        last = level == levels - 1
        if last:
            ops.cut()
        for index in range(config.layers_per_block):
            part = f"{name}.resnets.{index}"
            if last:
                x = _resnet(ops, config, x, part, channels)
            else:
                x = _resnet_tiles(ops, config, x, part, channels)
        if not last:
            ops.cut()
            x = ops.conv(
                x,
                f"{name}.downsamplers.0.conv",
                channels,
                stride=2,
                padding=(0, 0, 1, 1),
                size=_size(levels, level + 1),
            )
    x = _middle(ops, config, x, "encoder.mid_block")
    _moments(ops, config, x)


def _latents(ops: Ops, config: VaeConfig) -> Value:
    """The decoder up to its first level: all that works at the size of the latents."""
    x = ops.input("latent_sample", ("batch", config.latent_channels, "height", "width"))
    if config.post_quant_conv:
        x = ops.conv(x, "post_quant_conv", config.latent_channels, kernel=1)
    x = ops.conv(x, "decoder.conv_in", config.block_channels[-1])
    return _middle(ops, config, x, "decoder.mid_block")


def _moments(ops: Ops, config: VaeConfig, x: Value) -> None:
    x = ops.group_norm(x, "encoder.conv_norm_out", config.norm_groups, EPS, silu=True)
    x = ops.conv(x, "encoder.conv_out", 2 * config.latent_channels)
    if config.quant_conv:
        x = ops.conv(x, "quant_conv", 2 * config.latent_channels, kernel=1)
    ops.output("latent_parameters", x)


def _middle(ops: Ops, config: VaeConfig, x: Value, name: str) -> Value:
    channels = config.block_channels[-1]
    x = _resnet(ops, config, x, f"{name}.resnets.0", channels)
    if config.mid_attention:
        prefix = f"{name}.attentions.0"
        y = ops.to_tokens(ops.group_norm(x, f"{prefix}.group_norm", config.norm_groups, EPS))
        q, k, v = (ops.linear(y, f"{prefix}.to_{part}", channels) for part in "qkv")
        y = ops.linear(ops.attention(q, k, v, heads=1), f"{prefix}.to_out.0", channels)
        x = ops.add(ops.to_map(y, like=x), x)
        ops.cut()
    return _resnet(ops, config, x, f"{name}.resnets.1", channels)


def _resnet(ops: Ops, config: VaeConfig, x: Value, name: str, channels: int) -> Value:
    # First of all, so that the input, which may be half of all memory, can go early.
    short = x
    if x.channels != channels:
        short = ops.conv(x, f"{name}.conv_shortcut", channels, kernel=1)
    y = ops.group_norm(x, f"{name}.norm1", config.norm_groups, EPS, silu=True)
    y = ops.conv(y, f"{name}.conv1", channels)
    y = ops.group_norm(y, f"{name}.norm2", config.norm_groups, EPS, silu=True)
    y = ops.conv(y, f"{name}.conv2", channels)
    y = ops.add(short, y)
    ops.cut()
    return y


def _resnet_tiles(ops: TileOps, config: VaeConfig, x: Value, name: str, channels: int) -> Value:
    ops.cut()
    y = ops.given_norm(x, f"{name}.norm1", config.norm_groups, EPS)
    y = ops.conv(y, f"{name}.conv1", channels)
    ops.cut()
    # Here, and not in the graph before: one map less waits between the two.
    short = x
    if x.channels != channels:
        short = ops.conv(x, f"{name}.conv_shortcut", channels, kernel=1)
    y = ops.given_norm(y, f"{name}.norm2", config.norm_groups, EPS)
    return ops.add(short, ops.conv(y, f"{name}.conv2", channels))


def _size(levels: int, level: int) -> tuple[Dim, Dim]:
    """Names of height and width at a level, 0 being the picture and ``levels - 1`` the latents."""
    if level == levels - 1:
        return "height", "width"
    if level == 0:
        return "image_height", "image_width"
    return f"image_height_{1 << level}", f"image_width_{1 << level}"
