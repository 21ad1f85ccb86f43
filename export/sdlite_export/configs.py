"""What distinguishes one text encoder, U-Net or autoencoder of the family from another: numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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


@dataclass(frozen=True)
class UnetConfig:
    """A conditional U-Net of the SD1/SD2/SDXL kind. Tuples run over resolutions, finest first."""

    in_channels: int
    """Latent channels in (4; 9 for inpainting, 8 for instruct-pix2pix)."""
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
    transformer_depth: tuple[int, ...]
    """Transformer blocks per attention at each resolution, finest first."""
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
