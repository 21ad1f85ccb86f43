"""The numbers of a T2I-Adapter: from its configuration, or from the shapes of its tensors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from sdlite.errors import UnknownFamily
from sdlite_export.configs import T2IAdapterConfig
from sdlite_export.source.config_reader import MAX_LAYERS, ConfigReader
from sdlite_export.source.ldm_config import MAX_LEVELS, Lookup

KINDS = {"full_adapter": "full", "full_adapter_xl": "xl", "light_adapter": "light"}
CELLS = {192: (3, 8), 64: (1, 8), 768: (3, 16), 256: (1, 16)}
"""Channels of the picture and pixels per cell, by the product that the first weight shows."""


def read_t2i(path: Path) -> T2IAdapterConfig:
    """The numbers of a ``config.json``; raises ``SourceError``."""
    reader = ConfigReader(path)
    known = ("in_channels", "channels", "num_res_blocks", "downscale_factor", "adapter_type")
    reader.refuse({}, frozenset(known))
    name = reader.get("adapter_type", str, "full_adapter")
    if name not in KINDS:
        raise UnknownFamily(f"{path}: adapter_type {name!r}; known: {', '.join(KINDS)}")
    kind = KINDS[name]
    channels = reader.sizes("channels")
    return _made(
        str(path),
        kind,
        # A light one's last block is not in the list.
        (*channels, channels[-1]) if kind == "light" else channels,
        reader.size("num_res_blocks", 2),
        (reader.size("in_channels", 3), reader.size("downscale_factor", 8)),
    )


def derive_t2i(where: str, lookup: Lookup) -> T2IAdapterConfig:
    """The numbers from shapes; raises ``SourceError``."""
    named = lookup.naming == "diffusers"
    start = "adapter." if named else ""
    light = lookup.shape(f"{start}conv_in.weight") is None
    first = f"{start}body.0.in_conv.weight" if light else f"{start}conv_in.weight"
    cells = lookup.size(where, first, 1)
    if cells not in CELLS:
        raise UnknownFamily(
            f"{where}: a T2I-Adapter whose first convolution takes {cells} channels; known: "
            + ", ".join(map(str, CELLS))
        )
    block = f"{start}body.{{}}.resnets.0.block1.weight"
    layer = f"{start}body.0.resnets.{{}}.block1.weight"
    if light and not named:
        block, layer = "body.{}.body.0.block1.weight", "body.0.body.{}.block1.weight"
    if named or light:
        count, layers = lookup.count(block, MAX_LEVELS), lookup.count(layer)
        last = ".out_conv.weight" if light else ".resnets.0.block1.weight"
        names = [f"{start}body.{index}{last}" for index in range(count)]
    else:
        whole = lookup.count("body.{}.block1.weight")
        starts = [n for n in range(whole) if n == 0 or lookup.shape(f"body.{n}.in_conv.weight")]
        # Blocks that change the channels show how many ResNets a block has.
        layers = min((b - a for a, b in pairwise(starts)), default=whole)
        names = [f"body.{n}.block1.weight" for n in range(0, whole, layers)]
    channels = tuple(lookup.size(where, name) for name in names)
    pixels = CELLS[cells]
    kind = "light" if light else "xl" if pixels[1] == 16 else "full"
    return _made(where, kind, channels, layers, pixels)


def _made(
    where: str, kind: str, channels: tuple[int, ...], blocks: int, pixels: tuple[int, int]
) -> T2IAdapterConfig:
    inside, factor = pixels
    fits = inside in (1, 3) and factor in (8, 16) and blocks <= MAX_LAYERS
    if not fits or (kind == "xl") != (factor == 16):
        raise UnknownFamily(
            f"{where}: a T2I-Adapter ({kind}) of pictures of {inside} channels in cells of "
            f"{factor} pixels; known: 1 or 3 channels, cells of 8, and of 16 for SDXL"
        )
    if kind == "full":
        return T2IAdapterConfig("full", channels, blocks, factor, inside)
    return T2IAdapterConfig("xl" if kind == "xl" else "light", channels, blocks, factor, inside)
