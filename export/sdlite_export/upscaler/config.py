"""What an upscaler network is made of, as its tensors tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

MOST_REACH = 512
"""Further than any tile is wide: such networks see all of it."""


@dataclass(frozen=True)
class EsrganConfig:
    """ESRGAN's and Real-ESRGAN's generator (Wang et al. 2018, 2021)."""

    channels: int
    """Of the picture: 3, or 1."""
    features: int
    """Channels of the trunk."""
    growth: int
    """Channels each convolution of a dense block adds."""
    blocks: int
    """Residual-in-residual dense blocks: 23, or 6 for pictures of drawn things."""
    unshuffle: int
    """The picture is folded by this first: 1, or 2 and 4 for smaller scales."""
    doublings: int
    """Times the result is doubled."""

    @property
    def scale(self) -> int:
        """Pixels out for one pixel in, along a side."""
        return (1 << self.doublings) // self.unshuffle

    @property
    def multiple(self) -> int:
        """Sides it takes are multiples of this."""
        return self.unshuffle

    @property
    def reach(self) -> int:
        """How many input pixels away something can change a pixel."""
        convs = self.blocks * 3 * 5 + 2 + self.doublings + 2
        return min(self.unshuffle * convs, MOST_REACH)


@dataclass(frozen=True)
class CompactConfig:
    """SRVGGNetCompact: plain convolutions at the input's size (Real-ESRGAN's small networks)."""

    channels: int
    """Of the picture: 3, or 1."""
    features: int
    """Channels in between."""
    convs: int
    """Convolutions between the first and the last."""
    scale: int
    """Pixels out for one pixel in, along a side."""

    @property
    def multiple(self) -> int:
        """Any size will do."""
        return 1

    @property
    def reach(self) -> int:
        """Each 3x3 convolution sees one pixel further."""
        return self.convs + 2


@dataclass(frozen=True)
class SwinIrConfig:
    """SwinIR (Liang et al. 2021), built of shifted-window transformer layers."""

    channels: int
    """Of the picture: 3, or 1."""
    features: int
    """Width of the tokens."""
    depths: tuple[int, ...]
    """Attention layers in each group."""
    heads: tuple[int, ...]
    """Attention heads in each group."""
    hidden: int
    """Width between the two linear layers."""
    window: int
    """Side of an attention window."""
    triple_conv: bool
    """Groups end in three convolutions instead of one (the large model)."""
    patch_norm: bool
    """Whether tokens are normalised at the start."""
    upsampler: str
    """``pixelshuffle``, ``direct`` (the lightweight model) or ``nearest`` (for real pictures)."""
    middle: int
    """Channels after the transformer; 0 for ``direct``."""
    scale: int
    """Pixels out for one pixel in, along a side."""

    @property
    def multiple(self) -> int:
        """Sides it takes are multiples of a window."""
        return self.window

    @property
    def reach(self) -> int:
        """Each shifted layer sees another window: soon everything."""
        return MOST_REACH


UpscalerConfig: TypeAlias = EsrganConfig | CompactConfig | SwinIrConfig
KINDS: dict[type, str] = {EsrganConfig: "ESRGAN", CompactConfig: "compact", SwinIrConfig: "SwinIR"}
"""What each is called."""
