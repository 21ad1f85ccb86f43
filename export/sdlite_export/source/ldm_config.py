"""Derive a model's numbers from the shapes of its tensors, in LDM's naming or in diffusers'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite_export.configs import ClipTextConfig, Depth, Middle, UnetConfig, VaeConfig
from sdlite_export.source.clip_vocab import LENGTH
from sdlite_export.source.config_reader import MAX_LAYERS, MAX_SIZE
from sdlite_export.source.gather import SUPPORTED, Found

Naming: TypeAlias = Literal["ldm", "diffusers"]

HEADS = 8
"""Attention heads of the U-Nets of Stable Diffusion 1 and the x4 upscaler; no shape shows them."""
HEAD_WIDTH = 64
"""Channels of an attention head in the other U-Nets with linear projections, SD2's and SDXL's, and
in every CLIP text encoder."""
SIZE_DIM = 256
"""Width each of SDXL's sizes is embedded to; no shape shows it."""
NORM_GROUPS = 32
"""Groups of every GroupNorm in the LDM code base; no shape shows them."""
MAX_LEVELS = 16


@dataclass(frozen=True)
class Lookup:
    """Shapes by name, in files that keep the dots of names and in those that do not."""

    found: Mapping[str, Found]
    """The component's tensors by name without prefix."""
    undot: bool = False
    """Whether the file dropped the dots (EMA weights)."""
    naming: Naming = "ldm"
    """Whose names they are."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None when there is no such tensor."""
        place = self.found.get(name.replace(".", "") if self.undot else name)
        return None if place is None else place.shape

    def size(self, where: str, name: str, axis: int = 0) -> int:
        """One extent of a tensor that must be there; raises ``SourceCorrupt``."""
        shape = self.shape(name)
        if shape is None:
            raise SourceCorrupt(f"{where}: tensor {name} is missing; the file is incomplete")
        if axis >= len(shape) or not 1 <= shape[axis] <= MAX_SIZE:
            raise SourceCorrupt(f"{where}: tensor {name} has shape {list(shape)}")
        return shape[axis]

    def count(self, pattern: str, limit: int = MAX_LAYERS) -> int:
        """How many tensors ``pattern.format(0)``, ``pattern.format(1)`` ... there are in a row."""
        for number in range(limit):
            if self.shape(pattern.format(number)) is None:
                return number
        return limit


class _UnetNames:
    """Where the tensors lie that show a U-Net's numbers."""

    def __init__(self, lookup: Lookup) -> None:
        self.ldm = lookup.naming == "ldm"
        self.layers = 0
        while self.layers < MAX_LAYERS and lookup.shape(self.resnet(0, self.layers)) is not None:
            # In LDM's naming, counting through, the first block without a ResNet ends the level.
            self.layers += 1
        self.conv_in = "input_blocks.0.0.weight" if self.ldm else "conv_in.weight"
        self.conv_out = "out.2.weight" if self.ldm else "conv_out.weight"
        self.middle = "middle_block.1" if self.ldm else "mid_block.attentions.0"
        self.labels = "label_emb.0.0.weight" if self.ldm else "add_embedding.linear_1.weight"
        self.guidance = (
            "time_embed.cond_proj.weight" if self.ldm else "time_embedding.cond_proj.weight"
        )
        self.classes = "label_emb.weight" if self.ldm else "class_embedding.weight"
        self.mid_resnet = (
            "middle_block.0.in_layers.2.weight" if self.ldm else "mid_block.resnets.0.conv1.weight"
        )

    def resnet(self, level: int, layer: int) -> str:
        if self.ldm:
            return f"input_blocks.{self._down_block(level, layer)}.0.in_layers.2.weight"
        return f"down_blocks.{level}.resnets.{layer}.conv1.weight"

    def down(self, level: int, layer: int) -> str:
        if self.ldm:
            return f"input_blocks.{self._down_block(level, layer)}.1"
        return f"down_blocks.{level}.attentions.{layer}"

    def up(self, block: int, layer: int) -> str:
        if self.ldm:
            return f"output_blocks.{block * (self.layers + 1) + layer}.1"
        return f"up_blocks.{block}.attentions.{layer}"

    def _down_block(self, level: int, layer: int) -> int:
        return 1 + level * (self.layers + 1) + layer


def derive_unet(where: str, lookup: Lookup, whole: bool = True) -> UnetConfig:
    """The U-Net's numbers; ``where`` starts the messages.

    A network that is not ``whole`` has no way up (a ControlNet): it is taken to mirror the way
    down, and to give what it takes.
    """
    names = _UnetNames(lookup)
    if names.layers == 0:
        raise SourceCorrupt(f"{where}: the U-Net has no blocks; the file is incomplete")
    levels = 0
    while levels < MAX_LEVELS and lookup.shape(names.resnet(levels, 0)) is not None:
        levels += 1

    def depth(attention: str) -> int:
        return lookup.count(attention + ".transformer_blocks.{}.norm1.weight")

    layers = range(names.layers)
    down = [[depth(names.down(level, layer)) for layer in layers] for level in range(levels)]
    up = [
        [depth(names.up(block, layer)) for layer in range(names.layers + 1)]
        if whole
        else [down[levels - 1 - block][0]] * (names.layers + 1)
        for block in range(levels)
    ]
    middle_depth = depth(names.middle)
    middle: Middle = "attention" if middle_depth else "resnet"
    if lookup.shape(names.mid_resnet) is None:
        middle = "none"
    mixed = any(0 in depths and any(depths) for depths in (*down, *up))
    if mixed or (middle_depth and down[-1][0] not in (0, middle_depth)):
        raise UnknownFamily(
            f"{where}: U-Net with transformer depths {down} on the way down, {middle_depth} in the "
            f"middle and {up} on the way up; supported so far: {SUPPORTED}"
        )
    down_depth = [_joined(depths) or 1 for depths in down]
    up_depth = [_joined(depths) or 1 for depths in up]
    if middle_depth:
        down_depth[-1] = down_depth[-1] if down[-1][0] else middle_depth
    mirrored = all(
        isinstance(depth, int) and (not up[block][0] or depth == down_depth[levels - 1 - block])
        for block, depth in enumerate(up_depth)
    )
    first = next(
        (
            names.down(level, 0)
            for level in range(levels)
            if lookup.shape(names.down(level, 0) + ".proj_in.weight") is not None
        ),
        names.middle,
    )
    linear = len(lookup.shape(f"{first}.proj_in.weight") or ()) == 2
    channels = tuple(lookup.size(where, names.resnet(level, 0)) for level in range(levels))
    labels = lookup.shape(names.labels) is not None
    guided = lookup.shape(names.guidance) is not None
    classes = lookup.shape(names.classes) is not None
    wide = linear and not classes
    cross = lookup.size(where, f"{first}.transformer_blocks.0.attn2.to_k.weight", 1)
    _check_divides(where, "U-Net", channels, HEAD_WIDTH if wide else HEADS)
    return UnetConfig(
        in_channels=lookup.size(where, names.conv_in, 1),
        out_channels=(
            lookup.size(where, names.conv_out) if whole else lookup.size(where, names.conv_in, 1)
        ),
        block_channels=channels,
        layers_per_block=names.layers,
        down_attention=tuple(depths[0] > 0 for depths in down),
        up_attention=tuple(depths[0] > 0 for depths in up),
        heads=tuple(width // HEAD_WIDTH if wide else HEADS for width in channels),
        transformer_depth=tuple(down_depth),
        cross_dim=cross,
        linear_projection=linear,
        norm_groups=NORM_GROUPS,
        up_transformer_depth=None if mirrored else tuple(up_depth),
        middle=middle,
        label_dim=lookup.size(where, names.labels, 1) if labels else None,
        size_dim=SIZE_DIM,
        guidance_dim=lookup.size(where, names.guidance, 1) if guided else None,
        class_embeds=lookup.size(where, names.classes) if classes else None,
        cross_only=_cross_only(lookup, names, channels, cross) if classes else (),
    )


def _cross_only(
    lookup: Lookup, names: _UnetNames, channels: tuple[int, ...], cross: int
) -> tuple[bool, ...]:
    """Where the first attention takes as many channels as the text has, and not its own.

    Where both are the same no shape tells: there it looks at the picture, as the x4 upscaler's
    coarsest does.
    """

    def told(level: int, width: int) -> bool:
        name = f"{names.down(level, 0)}.transformer_blocks.0.attn1.to_k.weight"
        shape = lookup.shape(name) or (width, width)
        return shape[-1] == cross != width

    flags = tuple(told(level, width) for level, width in enumerate(channels))
    return flags if any(flags) else ()


def _joined(depths: list[int]) -> Depth:
    """One number where all are the same."""
    return depths[0] if len(set(depths)) == 1 else tuple(depths)


VAE_NAMES: Mapping[Naming, tuple[str, str, str]] = {
    "ldm": (
        "encoder.down.{}.block.0.conv1.weight",
        "encoder.down.0.block.{}.conv1.weight",
        "encoder.mid.attn_1.q.weight",
    ),
    "diffusers": (
        "encoder.down_blocks.{}.resnets.0.conv1.weight",
        "encoder.down_blocks.0.resnets.{}.conv1.weight",
        "encoder.mid_block.attentions.0.to_q.weight",
    ),
}
"""What is counted for levels and for layers, and what the middle's attention has."""


def derive_vae(where: str, lookup: Lookup, scale: float, force_upcast: bool) -> VaeConfig:
    """The autoencoder's numbers; no shape shows ``scale`` and ``force_upcast``."""
    level_name, layer_name, attention = VAE_NAMES[lookup.naming]
    levels = lookup.count(level_name, MAX_LEVELS)
    if levels == 0:
        raise SourceCorrupt(f"{where}: the autoencoder has no blocks; the file is incomplete")
    channels = tuple(lookup.size(where, level_name.format(level)) for level in range(levels))
    config = VaeConfig(
        in_channels=lookup.size(where, "encoder.conv_in.weight", 1),
        out_channels=lookup.size(where, "decoder.conv_out.weight"),
        latent_channels=lookup.size(where, "decoder.conv_in.weight", 1),
        block_channels=channels,
        layers_per_block=lookup.count(layer_name),
        norm_groups=NORM_GROUPS,
        mid_attention=lookup.shape(attention) is not None,
        quant_conv=lookup.shape("quant_conv.weight") is not None,
        post_quant_conv=lookup.shape("post_quant_conv.weight") is not None,
        scale=scale,
        force_upcast=force_upcast,
    )
    if config.latent_channels != 4:
        raise UnknownFamily(
            f"{where}: autoencoder with {config.latent_channels} latent channels; "
            f"supported so far: {SUPPORTED}"
        )
    _check_divides(where, "autoencoder", channels, 1)
    return config


def derive_text(where: str, lookup: Lookup, open_clip: bool, labels: bool) -> ClipTextConfig:
    """A text encoder's numbers; SDXL's (``labels``) are used without the final norm."""
    token = "text_model.embeddings.token_embedding.weight"
    layer = "text_model.encoder.layers.{}.mlp.fc1.weight"
    width = lookup.size(where, token, 1)
    if width % HEAD_WIDTH:
        raise UnknownFamily(
            f"{where}: text encoder {width} wide, which is no multiple of {HEAD_WIDTH}; "
            f"supported so far: {SUPPORTED}"
        )
    projected = lookup.shape("text_projection.weight") is not None
    config = ClipTextConfig(
        vocab_size=lookup.size(where, token),
        hidden_size=width,
        intermediate_size=lookup.size(where, layer.format(0)),
        layers=lookup.count(layer),
        heads=width // HEAD_WIDTH,
        positions=lookup.size(where, "text_model.embeddings.position_embedding.weight"),
        activation="gelu" if open_clip else "quick_gelu",
        projection=lookup.size(where, "text_projection.weight") if projected else None,
        norm_skipped=not labels,
    )
    if config.positions < LENGTH:
        raise UnknownFamily(
            f"{where}: text encoder with positions for {config.positions} tokens; a single file "
            f"has no tokenizer, and the usual one makes {LENGTH}"
        )
    return config


def _check_divides(where: str, what: str, channels: tuple[int, ...], heads: int) -> None:
    for width in channels:
        if width % NORM_GROUPS or width % heads:
            raise UnknownFamily(
                f"{where}: {what} with {width} channels, no multiple of "
                f"{max(NORM_GROUPS, heads)}; supported so far: {SUPPORTED}"
            )
