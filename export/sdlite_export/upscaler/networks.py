"""ESRGAN and the compact networks, written from their papers over our operations.

Input: ``image`` (1, channels, height, width), 0 to 1. Output: ``upscaled``, the same at ``scale``
times the size, about 0 to 1. Weights are named as in the networks' published files.
"""

from __future__ import annotations

from sdlite_export.ops import Dim, Value
from sdlite_export.upscaler.config import (
    CompactConfig,
    EsrganConfig,
    SwinIrConfig,
    UpscalerConfig,
)
from sdlite_export.upscaler.ops import UpscalerOps
from sdlite_export.upscaler.swinir import swinir

SLOPE = 0.2
RESIDUAL = 0.2
"""Share of what a block changes, which keeps deep stacks of them stable."""
DENSE = 5
"""Convolutions of a dense block."""


def upscaler(ops: UpscalerOps, config: UpscalerConfig) -> None:
    """Build the graph of any of the networks."""
    if isinstance(config, EsrganConfig):
        esrgan(ops, config)
    elif isinstance(config, CompactConfig):
        compact(ops, config)
    elif isinstance(config, SwinIrConfig):
        swinir(ops, config)


def esrgan(ops: UpscalerOps, config: EsrganConfig) -> None:
    """Residual-in-residual dense blocks, then doublings (Wang et al. 2018, figure 4)."""
    x = ops.input("image", (1, config.channels, "height", "width"))
    if config.unshuffle > 1:
        x = ops.pixel_unshuffle(x, config.unshuffle, ("folded_height", "folded_width"))
    first = ops.conv(x, "conv_first", config.features)
    x = first
    for block in range(config.blocks):
        x = _block(ops, config, x, f"body.{block}")
    x = ops.add(ops.conv(x, "conv_body", config.features), first)
    for index in range(1, config.doublings + 1):
        x = ops.enlarge(x, 2, (f"height_{index}", f"width_{index}"))
        x = ops.leaky_relu(ops.conv(x, f"conv_up{index}", config.features), SLOPE)
    x = ops.leaky_relu(ops.conv(x, "conv_hr", config.features), SLOPE)
    ops.output("upscaled", ops.conv(x, "conv_last", config.channels))


def _block(ops: UpscalerOps, config: EsrganConfig, x: Value, name: str) -> Value:
    y = x
    for part in range(1, 4):
        y = _dense(ops, config, y, f"{name}.rdb{part}")
    return ops.add(ops.scaled(y, RESIDUAL), x)


def _dense(ops: UpscalerOps, config: EsrganConfig, x: Value, name: str) -> Value:
    """Every convolution sees what all before it made (Huang et al. 2017)."""
    seen = x
    for index in range(1, DENSE):
        y = ops.leaky_relu(ops.conv(seen, f"{name}.conv{index}", config.growth), SLOPE)
        seen = ops.concat(seen, y)
    y = ops.conv(seen, f"{name}.conv{DENSE}", config.features)
    return ops.add(ops.scaled(y, RESIDUAL), x)


def compact(ops: UpscalerOps, config: CompactConfig) -> None:
    """Convolutions with learned slopes; what they make is added to the enlarged input."""
    image = ops.input("image", (1, config.channels, "height", "width"))
    x = image
    for index in range(config.convs + 1):
        x = ops.conv(x, f"body.{2 * index}", config.features)
        x = ops.prelu(x, f"body.{2 * index + 1}")
    x = ops.conv(x, f"body.{2 * config.convs + 2}", config.channels * config.scale**2)
    size: tuple[Dim, Dim] = ("upscaled_height", "upscaled_width")
    x = ops.pixel_shuffle(x, config.scale, size)
    ops.output("upscaled", ops.add(ops.enlarge(image, config.scale, size), x))
