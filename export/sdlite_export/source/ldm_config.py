"""Derive a model's numbers from the shapes of its tensors in LDM naming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig
from sdlite_export.source.clip_vocab import LENGTH
from sdlite_export.source.diffusers_config import MAX_SIZE, check_family
from sdlite_export.source.gather import SUPPORTED, Found

HEADS = 8
"""Attention heads of Stable Diffusion 1's U-Net; no shape shows them."""
NORM_GROUPS = 32
"""Groups of every GroupNorm in the LDM code base; no shape shows them."""
CLIP_HEAD_WIDTH = 64
"""Channels of an attention head in every CLIP text encoder."""
MAX_BLOCKS = 256


@dataclass(frozen=True)
class Lookup:
    """Shapes by LDM name, in files that keep the dots of names and in those that do not."""

    found: Mapping[str, Found]
    """The component's tensors by name without prefix."""
    undot: bool = False
    """Whether the file dropped the dots (EMA weights)."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None when there is no such tensor."""
        place = self.found.get(name.replace(".", "") if self.undot else name)
        return None if place is None else place.source.infos()[place.name].shape

    def size(self, where: str, name: str, axis: int = 0) -> int:
        """One extent of a tensor that must be there; raises ``SourceCorrupt``."""
        shape = self.shape(name)
        if shape is None:
            raise SourceCorrupt(f"{where}: tensor {name} is missing; the file is incomplete")
        if axis >= len(shape) or not 1 <= shape[axis] <= MAX_SIZE:
            raise SourceCorrupt(f"{where}: tensor {name} has shape {list(shape)}")
        return shape[axis]

    def count(self, pattern: str) -> int:
        """How many tensors ``pattern.format(0)``, ``pattern.format(1)`` ... there are in a row."""
        for number in range(MAX_BLOCKS):
            if self.shape(pattern.format(number)) is None:
                return number
        return MAX_BLOCKS


def derive_unet(where: str, lookup: Lookup) -> UnetConfig:
    """The U-Net's numbers; ``where`` starts the messages."""
    # One (width, transformer depth) for each ResNet, grouped by resolution.
    levels: list[list[tuple[int, int]]] = [[]]
    number = 1
    while number < MAX_BLOCKS:
        block = f"input_blocks.{number}"
        if lookup.shape(f"{block}.0.op.weight") is not None:
            levels.append([])
        elif lookup.shape(f"{block}.0.in_layers.2.weight") is not None:
            width = lookup.size(where, f"{block}.0.in_layers.2.weight")
            depth = lookup.count(block + ".1.transformer_blocks.{}.norm1.weight")
            levels[-1].append((width, depth))
        else:
            break
        number += 1
    if any(len(set(level)) != 1 or len(level) != len(levels[0]) for level in levels):
        raise UnknownFamily(
            f"{where}: U-Net with input blocks {levels} (width, transformer depth by resolution); "
            f"supported so far: {SUPPORTED}"
        )
    channels = tuple(level[0][0] for level in levels)
    depths = tuple(level[0][1] for level in levels)
    layers = len(levels[0])
    middle = lookup.count("middle_block.1.transformer_blocks.{}.norm1.weight")
    if middle == 0:
        raise UnknownFamily(
            f"{where}: U-Net without a transformer in the middle; supported so far: {SUPPORTED}"
        )
    if depths[-1] not in (0, middle):
        raise UnknownFamily(
            f"{where}: transformer depth {middle} in the middle and {depths[-1]} beside it; "
            f"supported so far: {SUPPORTED}"
        )
    up = tuple(
        lookup.shape(f"output_blocks.{index * (layers + 1)}.1.proj_in.weight") is not None
        for index in range(len(levels))
    )
    attention = "middle_block.1"
    projection = lookup.shape(f"{attention}.proj_in.weight") or ()
    config = UnetConfig(
        in_channels=lookup.size(where, "input_blocks.0.0.weight", 1),
        out_channels=lookup.size(where, "out.2.weight"),
        block_channels=channels,
        layers_per_block=layers,
        down_attention=tuple(depth > 0 for depth in depths),
        up_attention=up,
        heads=(HEADS,) * len(levels),
        transformer_depth=(*(depth or 1 for depth in depths[:-1]), middle),
        cross_dim=lookup.size(where, f"{attention}.transformer_blocks.0.attn2.to_k.weight", 1),
        linear_projection=len(projection) == 2,
        norm_groups=NORM_GROUPS,
    )
    check_family(where, config)
    _check_divides(where, "U-Net", channels)
    return config


def derive_vae(where: str, lookup: Lookup) -> VaeConfig:
    """The autoencoder's numbers."""
    levels = lookup.count("encoder.down.{}.block.0.conv1.weight")
    if levels == 0:
        raise SourceCorrupt(f"{where}: the autoencoder has no blocks; the file is incomplete")
    channels = tuple(
        lookup.size(where, f"encoder.down.{level}.block.0.conv1.weight") for level in range(levels)
    )
    config = VaeConfig(
        in_channels=lookup.size(where, "encoder.conv_in.weight", 1),
        out_channels=lookup.size(where, "decoder.conv_out.weight"),
        latent_channels=lookup.size(where, "decoder.conv_in.weight", 1),
        block_channels=channels,
        layers_per_block=lookup.count("encoder.down.0.block.{}.conv1.weight"),
        norm_groups=NORM_GROUPS,
        mid_attention=lookup.shape("encoder.mid.attn_1.q.weight") is not None,
        quant_conv=lookup.shape("quant_conv.weight") is not None,
        post_quant_conv=lookup.shape("post_quant_conv.weight") is not None,
    )
    if config.latent_channels != 4:
        raise UnknownFamily(
            f"{where}: autoencoder with {config.latent_channels} latent channels; "
            f"supported so far: {SUPPORTED}"
        )
    _check_divides(where, "autoencoder", channels)
    return config


def derive_text(where: str, lookup: Lookup) -> ClipTextConfig:
    """The text encoder's numbers."""
    token = "text_model.embeddings.token_embedding.weight"
    layer = "text_model.encoder.layers.{}.mlp.fc1.weight"
    width = lookup.size(where, token, 1)
    if width % CLIP_HEAD_WIDTH:
        raise UnknownFamily(
            f"{where}: text encoder {width} wide, which is no multiple of {CLIP_HEAD_WIDTH}; "
            f"supported so far: {SUPPORTED}"
        )
    config = ClipTextConfig(
        vocab_size=lookup.size(where, token),
        hidden_size=width,
        intermediate_size=lookup.size(where, layer.format(0)),
        layers=lookup.count(layer),
        heads=width // CLIP_HEAD_WIDTH,
        positions=lookup.size(where, "text_model.embeddings.position_embedding.weight"),
    )
    if config.positions < LENGTH:
        raise UnknownFamily(
            f"{where}: text encoder with positions for {config.positions} tokens; a single file "
            f"has no tokenizer, and the usual one makes {LENGTH}"
        )
    return config


def _check_divides(where: str, what: str, channels: tuple[int, ...]) -> None:
    for width in channels:
        if width % NORM_GROUPS or width % HEADS:
            raise UnknownFamily(
                f"{where}: {what} with {width} channels, no multiple of {NORM_GROUPS}; "
                f"supported so far: {SUPPORTED}"
            )
