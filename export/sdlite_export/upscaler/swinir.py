"""SwinIR (Liang et al. 2021, figure 2), named as its published files name it."""

from __future__ import annotations

from sdlite_export.ops import Dim, Value
from sdlite_export.upscaler.config import SwinIrConfig
from sdlite_export.upscaler.ops import UpscalerOps

EPS = 1e-5
MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of the training pictures (DIV2K), which colour networks work relative to."""
SLOPE = 0.2
FIRST_SLOPE = 0.01
"""Of the one convolution that leads from the transformer to the upsampler."""


def swinir(ops: UpscalerOps, config: SwinIrConfig) -> None:
    """Shallow features, groups of attention layers, upsampling."""
    x = ops.input("image", (1, config.channels, "height", "width"))
    if config.channels == 3:
        x = ops.shifted(x, [-value for value in MEAN])
    first = ops.conv(x, "conv_first", config.features)
    x = ops.to_grid(first)
    if config.patch_norm:
        x = ops.layer_norm(x, "patch_embed.norm", EPS)
    for index in range(len(config.depths)):
        x = _group(ops, config, x, index)
    x = ops.from_grid(ops.layer_norm(x, "norm", EPS))
    x = ops.add(_convs(ops, config, x, "conv_after_body"), first)
    x = _upsampled(ops, config, x)
    if config.channels == 3:
        x = ops.shifted(x, MEAN)
    ops.output("upscaled", x)


def _group(ops: UpscalerOps, config: SwinIrConfig, x: Value, index: int) -> Value:
    y = x
    for layer in range(config.depths[index]):
        name = f"layers.{index}.residual_group.blocks.{layer}"
        shift = config.window // 2 if layer % 2 else 0
        y = _layer(ops, config, y, name, config.heads[index], shift)
    y = ops.to_grid(_convs(ops, config, ops.from_grid(y), f"layers.{index}.conv"))
    return ops.add(x, y)


def _layer(
    ops: UpscalerOps, config: SwinIrConfig, x: Value, name: str, heads: int, shift: int
) -> Value:
    y = ops.windows(ops.layer_norm(x, f"{name}.norm1", EPS), config.window, shift)
    y = ops.window_attention(y, f"{name}.attn", heads, config.window, shift, x)
    x = ops.add(x, ops.from_windows(y, config.window, shift, like=x))
    y = ops.linear(ops.layer_norm(x, f"{name}.norm2", EPS), f"{name}.mlp.fc1", config.hidden)
    y = ops.linear(ops.gelu(y), f"{name}.mlp.fc2", config.features)
    return ops.add(x, y)


def _convs(ops: UpscalerOps, config: SwinIrConfig, x: Value, name: str) -> Value:
    if not config.triple_conv:
        return ops.conv(x, name, config.features)
    narrow = config.features // 4
    x = ops.leaky_relu(ops.conv(x, f"{name}.0", narrow), SLOPE)
    x = ops.leaky_relu(ops.conv(x, f"{name}.2", narrow, kernel=1), SLOPE)
    return ops.conv(x, f"{name}.4", config.features)


def _upsampled(ops: UpscalerOps, config: SwinIrConfig, x: Value) -> Value:
    size: tuple[Dim, Dim] = ("upscaled_height", "upscaled_width")
    if config.upsampler == "direct":
        x = ops.conv(x, "upsample.0", config.channels * config.scale**2)
        return ops.pixel_shuffle(x, config.scale, size)
    x = ops.conv(x, "conv_before_upsample.0", config.middle)
    x = ops.leaky_relu(x, FIRST_SLOPE)
    doublings = config.scale.bit_length() - 1
    if config.upsampler == "nearest":
        for index in range(1, doublings + 1):
            x = ops.enlarge(x, 2, (f"height_{index}", f"width_{index}"))
            x = ops.leaky_relu(ops.conv(x, f"conv_up{index}", config.middle), SLOPE)
        x = ops.leaky_relu(ops.conv(x, "conv_hr", config.middle), SLOPE)
    elif config.scale == 3:
        x = ops.pixel_shuffle(ops.conv(x, "upsample.0", 9 * config.middle), 3, size)
    else:
        for index in range(doublings):
            x = ops.conv(x, f"upsample.{2 * index}", 4 * config.middle)
            x = ops.pixel_shuffle(x, 2, (f"height_{index + 1}", f"width_{index + 1}"))
    return ops.conv(x, "conv_last", config.channels)
