"""ESRGAN, the compact network and SwinIR in torch, written from their papers.

Parameter names are those of the published files, so that a state dict of these is such a file.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dense(nn.Module):
    """Densely connected convolutions (Wang et al. 2018, figure 4)."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for index in range(1, 6):
            outputs = features if index == 5 else growth
            conv = nn.Conv2d(features + (index - 1) * growth, outputs, 3, 1, 1)
            self.add_module(f"conv{index}", conv)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for index in range(1, 6):
            y = getattr(self, f"conv{index}")(torch.cat(made, 1))
            made.append(y if index == 5 else F.leaky_relu(y, 0.2))
        return x + 0.2 * made[-1]


class Rrdb(nn.Module):
    """Residual in residual dense block."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = Dense(features, growth)
        self.rdb2 = Dense(features, growth)
        self.rdb3 = Dense(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class Esrgan(nn.Module):
    """The generator; with ``unshuffle`` as in Real-ESRGAN's x2plus."""

    def __init__(
        self,
        features: int = 16,
        growth: int = 8,
        blocks: int = 2,
        unshuffle: int = 1,
        doublings: int = 2,
    ) -> None:
        super().__init__()
        self.unshuffle, self.doublings = unshuffle, doublings
        self.conv_first = nn.Conv2d(3 * unshuffle**2, features, 3, 1, 1)
        self.body = nn.Sequential(*(Rrdb(features, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(features, features, 3, 1, 1)
        for index in range(1, doublings + 1):
            self.add_module(f"conv_up{index}", nn.Conv2d(features, features, 3, 1, 1))
        self.conv_hr = nn.Conv2d(features, features, 3, 1, 1)
        self.conv_last = nn.Conv2d(features, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(F.pixel_unshuffle(x, self.unshuffle))
        x = first + self.conv_body(self.body(first))
        for index in range(1, self.doublings + 1):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.leaky_relu(getattr(self, f"conv_up{index}")(x), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


class Compact(nn.Module):
    """SRVGGNetCompact of Real-ESRGAN."""

    def __init__(self, features: int = 16, convs: int = 3, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, 1, 1), nn.PReLU(features)]
        for _ in range(convs):
            layers += [nn.Conv2d(features, features, 3, 1, 1), nn.PReLU(features)]
        self.body = nn.ModuleList([*layers, nn.Conv2d(features, 3 * scale**2, 3, 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.body:
            y = layer(y)
        y = F.pixel_shuffle(y, self.scale)
        return y + F.interpolate(x, scale_factor=self.scale, mode="nearest")


class WindowAttention(nn.Module):
    """Attention in windows with a bias by relative position (Liu et al. 2021)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        places = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        ).flatten(1)
        apart = (places[:, :, None] - places[:, None, :]) + window - 1
        index = apart[0] * (2 * window - 1) + apart[1]
        self.register_buffer("relative_position_index", index)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        count, tokens, width = x.shape
        parts = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias[None] if mask is None else bias[None] + mask[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(count, -1, -1, -1))
        return self.proj(y.transpose(1, 2).reshape(count, tokens, width))


def cut(x: Tensor, window: int) -> Tensor:
    """``(1, h, w, c)`` to ``(windows, window * window, c)``."""
    _, height, width, channels = x.shape
    x = x.view(height // window, window, width // window, window, channels)
    return x.transpose(1, 2).reshape(-1, window * window, channels)


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    """A layer of the transformer, shifted or not."""

    def __init__(self, width: int, heads: int, window: int, shift: int, ratio: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, width * ratio)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        y, mask = self.norm1(x), None
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
            mask = self._mask(height, width)
        y = self.attn(cut(y, self.window), mask)
        down, across = height // self.window, width // self.window
        y = y.view(down, across, self.window, self.window, channels)
        y = y.transpose(1, 2).reshape(1, height, width, channels)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))

    def _mask(self, height: int, width: int) -> Tensor:
        regions = torch.zeros(1, height, width, 1)
        stops = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for row, down in enumerate(stops):
            for column, across in enumerate(stops):
                regions[:, down, across] = 3 * row + column
        flat = cut(regions, self.window)[:, :, 0]
        return torch.where(flat[:, :, None] == flat[:, None, :], 0.0, -100.0)


class Layers(nn.Module):
    """The layers of a group."""

    def __init__(self, width: int, depth: int, heads: int, window: int, ratio: int) -> None:
        super().__init__()
        shifts = [window // 2 * (index % 2) for index in range(depth)]
        self.blocks = nn.ModuleList(Layer(width, heads, window, s, ratio) for s in shifts)


def convs(width: int, triple: bool) -> nn.Module:
    """What ends a group: one convolution, or three."""
    if not triple:
        return nn.Conv2d(width, width, 3, 1, 1)
    narrow = width // 4
    return nn.Sequential(
        nn.Conv2d(width, narrow, 3, 1, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, narrow, 1, 1, 0),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, width, 3, 1, 1),
    )


class Group(nn.Module):
    """Residual group of layers."""

    def __init__(
        self, width: int, depth: int, heads: int, window: int, ratio: int, triple: bool
    ) -> None:
        super().__init__()
        self.residual_group = Layers(width, depth, heads, window, ratio)
        self.conv = convs(width, triple)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.residual_group.blocks:
            y = layer(y)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIr(nn.Module):
    """SwinIR for larger pictures."""

    def __init__(
        self,
        width: int = 12,
        depths: tuple[int, ...] = (2, 2),
        heads: tuple[int, ...] = (2, 3),
        window: int = 4,
        ratio: int = 2,
        scale: int = 4,
        upsampler: str = "nearest",
        middle: int = 16,
        triple: bool = False,
    ) -> None:
        super().__init__()
        self.upsampler, self.scale = upsampler, scale
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            Group(width, depth, count, window, ratio, triple)
            for depth, count in zip(depths, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = convs(width, triple)
        if upsampler == "direct":
            self.upsample = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, 1, 1))
            return
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, middle, 3, 1, 1))
        if upsampler == "nearest":
            self.conv_up1 = nn.Conv2d(middle, middle, 3, 1, 1)
            if scale == 4:
                self.conv_up2 = nn.Conv2d(middle, middle, 3, 1, 1)
            self.conv_hr = nn.Conv2d(middle, middle, 3, 1, 1)
        else:
            factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
            steps: OrderedDict[str, nn.Module] = OrderedDict()
            for index, factor in enumerate(factors):
                steps[str(2 * index)] = nn.Conv2d(middle, middle * factor**2, 3, 1, 1)
                steps[str(2 * index + 1)] = nn.PixelShuffle(factor)
            self.upsample = nn.Sequential(steps)
        self.conv_last = nn.Conv2d(middle, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        first = self.conv_first(x - mean)
        y = self.patch_embed.norm(first.permute(0, 2, 3, 1))
        for group in self.layers:
            y = group(y)
        y = self.conv_after_body(self.norm(y).permute(0, 3, 1, 2)) + first
        if self.upsampler == "direct":
            return F.pixel_shuffle(self.upsample(y), self.scale) + mean
        y = F.leaky_relu(self.conv_before_upsample(y), 0.01)
        if self.upsampler == "nearest":
            for index in range(1, self.scale.bit_length()):
                y = F.interpolate(y, scale_factor=2, mode="nearest")
                y = F.leaky_relu(getattr(self, f"conv_up{index}")(y), 0.2)
            y = F.leaky_relu(self.conv_hr(y), 0.2)
        else:
            y = self.upsample(y)
        return self.conv_last(y) + mean


def first_release(state: dict[str, Tensor], blocks: int, doublings: int) -> dict[str, Tensor]:
    """ESRGAN's tensors under the names of its first release."""
    named = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    for index in range(1, doublings + 1):
        named[f"conv_up{index}"] = f"model.{3 * index}"
    named |= {"conv_hr": f"model.{3 * doublings + 2}", "conv_last": f"model.{3 * doublings + 4}"}
    renamed = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in named:
            renamed[f"{named[stem]}.{kind}"] = tensor
        else:
            _, block, part, conv = stem.split(".")
            place = f"model.1.sub.{block}.RDB{part[-1]}.{conv}.0"
            renamed[f"{place}.{kind}"] = tensor
    return renamed


def second_release(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ESRGAN's tensors under the names of its second release."""
    swaps = (
        ("conv_body", "trunk_conv"),
        ("body.", "RRDB_trunk."),
        (".rdb", ".RDB"),
        ("conv_up", "upconv"),
        ("conv_hr", "HRconv"),
    )
    renamed = {}
    for name, tensor in state.items():
        for new, old in swaps:
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed
