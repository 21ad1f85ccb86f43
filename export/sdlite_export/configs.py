"""What distinguishes one text encoder, U-Net or autoencoder of the family from another: numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Depth: TypeAlias = int | tuple[int, ...]
Middle: TypeAlias = Literal["attention", "resnet", "none"]


@dataclass(frozen=True)
class ClipTextConfig:
    """A CLIP text transformer."""

    vocab_size: int
    """Rows of the token embedding."""
    hidden_size: int
    """Width."""
    intermediate_size: int
    """Width inside the MLP."""
    layers: int
    """Transformer layers."""
    heads: int
    """Attention heads."""
    positions: int = 77
    """Rows of the position embedding."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """MLP activation."""
    eps: float = 1e-5
    """LayerNorm epsilon."""
    eos: int = 49407
    """End token, whose (first) position gives the pooled output."""
    projection: int | None = None
    """Width of the text projection, for encoders that have one."""
    norm_skipped: bool = True
    """Whether the U-Net is given earlier layers' outputs normalised by the final norm (SD1, SD2)
    or as they are (SDXL)."""


@dataclass(frozen=True)
class UnetConfig:
    """A conditional U-Net of the SD1/SD2/SDXL kind. Tuples run over resolutions, finest first."""

    in_channels: int
    """Latent channels in (4; 9 for inpainting, 8 for instruct-pix2pix, 7 for the x4 upscaler)."""
    out_channels: int
    """Latent channels out."""
    block_channels: tuple[int, ...]
    """Width at each resolution."""
    layers_per_block: int
    """ResNets in a down block; up blocks have one more."""
    down_attention: tuple[bool, ...]
    """Whether the down block at this resolution has transformers."""
    up_attention: tuple[bool, ...]
    """Whether the up block does, in the order up blocks run (coarsest first)."""
    heads: tuple[int, ...]
    """Attention heads at each resolution, finest first."""
    transformer_depth: tuple[Depth, ...]
    """Transformer blocks per attention at each resolution, finest first; one number for all layers
    of a block or, in pruned U-Nets, one for each."""
    cross_dim: int
    """Width of the text features."""
    linear_projection: bool = False
    """Transformer projections are linear (SD2, SDXL) instead of 1x1 convolutions (SD1)."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""
    norm_eps: float = 1e-5
    """Epsilon of the ResNets' GroupNorms (transformers use 1e-6)."""
    flip_sin_to_cos: bool = True
    """Cosines come first in the timestep embedding."""
    freq_shift: float = 0.0
    """Shift of the embedding's frequencies."""
    up_transformer_depth: tuple[Depth, ...] | None = None
    """The same for the up blocks, in the order they run; None where they mirror the way down."""
    middle: Middle = "attention"
    """The middle: two ResNets around a transformer, one ResNet, or nothing."""
    label_dim: int | None = None
    """Width of the vector of pooled text and sizes that joins the timestep (SDXL)."""
    size_dim: int = 256
    """Width each size is embedded to."""
    guidance_dim: int | None = None
    """Width of the guidance scale's embedding, in models that take one (LCM)."""
    class_embeds: int | None = None
    """Noise levels a table has vectors for that join the timestep (the x4 upscaler)."""
    cross_only: tuple[bool, ...] = ()
    """Whether transformers at this resolution look at the text twice and never at the picture (the
    x4 upscaler); empty is nowhere. The middle looks at both in any case."""

    def down_depth(self, level: int, layer: int) -> int:
        """Transformer blocks after a ResNet on the way down; 0 without a transformer."""
        return _depth(self.transformer_depth[level], layer) if self.down_attention[level] else 0

    def up_depth(self, block: int, layer: int) -> int:
        """The same on the way up; ``block`` counts in the order up blocks run."""
        if not self.up_attention[block]:
            return 0
        depths = self.up_transformer_depth or self.transformer_depth[::-1]
        return _depth(depths[block], layer)

    @property
    def mid_depth(self) -> int:
        """Transformer blocks in the middle."""
        return _depth(self.transformer_depth[-1], 0) if self.middle == "attention" else 0

    @property
    def finest_attention(self) -> int | None:
        """The finest resolution whose transformers look at the picture, counted from 0; None where
        there is none."""
        both = zip(self.down_attention, reversed(self.up_attention), strict=True)
        there = (level for level, pair in enumerate(both) if any(pair))
        return next((level for level in there if not self.looks_twice(level)), None)

    def looks_twice(self, level: int) -> bool:
        """Whether transformers on the way down and up look at nothing but the text there."""
        return bool(self.cross_only) and self.cross_only[level]

    @property
    def transformers(self) -> int:
        """Transformer blocks in all."""
        levels, layers = range(len(self.block_channels)), self.layers_per_block
        down = sum(self.down_depth(level, layer) for level in levels for layer in range(layers))
        up = sum(self.up_depth(block, layer) for block in levels for layer in range(layers + 1))
        return down + self.mid_depth + up


def _depth(depth: Depth, layer: int) -> int:
    return depth if isinstance(depth, int) else depth[layer]


@dataclass(frozen=True)
class ControlNetConfig:
    """A ControlNet: the way down and the middle of a U-Net beside a picture."""

    unet: UnetConfig
    """The U-Net it is a copy of; what it says of the way up is not used."""
    embedding: tuple[int, ...] = (16, 32, 96, 256)
    """Channels of the convolutions that bring the picture to the size of the latents, each step
    half as large."""
    pooled: bool = False
    """Whether residuals are averaged over the picture (those trained on shuffled pictures)."""


@dataclass(frozen=True)
class T2IAdapterConfig:
    """A T2I-Adapter."""

    kind: Literal["full", "xl", "light"]
    """How its blocks are built and where they halve the picture."""
    channels: tuple[int, ...]
    """Channels of each block, which are those of what it gives."""
    blocks: int
    """ResNets in a block."""
    factor: int = 8
    """Pixels per cell, each way, where its convolutions begin."""
    in_channels: int = 3
    """Channels of the picture: 3, or 1 where it takes grey ones."""

    @property
    def halved(self) -> tuple[bool, ...]:
        """Whether each block begins by halving its input."""
        if self.kind == "xl":
            return tuple(index == 2 for index in range(len(self.channels)))
        return tuple(index > 0 for index in range(len(self.channels)))

    @property
    def levels(self) -> tuple[int, ...]:
        """How often each output is halved, against cells of 8 pixels."""
        level = self.factor.bit_length() - 4
        return tuple(level := level + half for half in self.halved)


@dataclass(frozen=True)
class VaeConfig:
    """A KL autoencoder. Tuples run from the picture's resolution down."""

    in_channels: int
    """Picture channels in."""
    out_channels: int
    """Picture channels out."""
    latent_channels: int
    """Latent channels (the encoder emits twice as many: mean and log-variance)."""
    block_channels: tuple[int, ...]
    """Width at each resolution."""
    layers_per_block: int
    """ResNets in an encoder block; decoder blocks have one more."""
    norm_groups: int = 32
    """Groups of every GroupNorm."""
    mid_attention: bool = True
    """Whether the middle has a single-head attention."""
    quant_conv: bool = True
    """Whether a 1x1 convolution follows the encoder."""
    post_quant_conv: bool = True
    """Whether a 1x1 convolution precedes the decoder."""
    scale: float = 0.18215
    """Latents handed to the U-Net = scale * mean."""
    force_upcast: bool = False
    """Whether what flows through it leaves float16's range (SDXL)."""


@dataclass(frozen=True)
class TinyVaeConfig:
    """A tiny autoencoder (TAESD)."""

    latent_channels: int
    """Latent channels."""
    channels: int
    """Width everywhere."""
    blocks: tuple[int, ...] = (3, 3, 3, 1)
    """Blocks at each resolution, from the latents' to the picture's."""


@dataclass(frozen=True)
class ClipVisionConfig:
    """A CLIP picture transformer with its projection."""

    hidden_size: int
    """Width."""
    intermediate_size: int
    """Width inside the MLP."""
    layers: int
    """Transformer layers."""
    heads: int
    """Attention heads."""
    image_size: int
    """Side of the pictures it takes."""
    patch_size: int
    """Side of a patch; each becomes a token."""
    projection: int
    """Width of the pooled vector."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """MLP activation."""
    eps: float = 1e-5
    """LayerNorm epsilon."""

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class IPAdapterConfig:
    """An IP-Adapter."""

    kind: Literal["plain", "plus", "full"]
    """How it makes tokens of what the picture encoder says: a linear layer on the pooled vector; a
    resampler, or an MLP for each token, on the states of the second last layer."""
    width: int
    """Width of what it takes of the encoder."""
    cross_dim: int
    """Width of its tokens, which is that of the U-Net's text features."""
    crosses: tuple[int, ...]
    """Channels of each cross-attention of the U-Net, in the order of the file: the way down, the
    way up, the middle."""
    tokens: int = 0
    """Tokens it makes of a picture; of ``full`` as many as there are states."""
    inner: int = 0
    """Width inside the resampler or the MLP."""
    feed: int = 0
    """Width inside the resampler's MLPs."""
    heads: int = 0
    """The resampler's attention heads, 64 channels each."""
    depth: int = 0
    """The resampler's layers."""

    @property
    def pooled(self) -> bool:
        """Whether it takes the pooled vector; otherwise the second last layer's states."""
        return self.kind == "plain"


@dataclass(frozen=True)
class SafetyConfig:
    """Stable Diffusion's safety checker."""

    vision: ClipVisionConfig
    """What looks at pictures."""
    special: int
    """Concepts that make all others count more."""
    concepts: int
    """Concepts that decide."""
