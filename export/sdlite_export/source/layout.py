"""Every tensor of a family, from its numbers: diffusers' name, LDM's name and the shape.

Both naming schemes describe the same blocks. Walking the blocks once therefore gives the map
between the schemes, the list of what must be there, and the shapes to check it against. LDM
(CompVis' latent-diffusion) numbers the U-Net's blocks through and counts the autoencoder's decoder
levels from the finest; diffusers numbers resolutions in the order they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sdlite_export.configs import (
    ClipTextConfig,
    ControlNetConfig,
    T2IAdapterConfig,
    UnetConfig,
    VaeConfig,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """One tensor that the architecture has."""

    name: str
    """Diffusers' (for the text encoder: transformers') state-dict key."""
    ldm: str
    """The same in LDM's naming, without the component's prefix."""
    shape: Shape
    """Shape in diffusers' layout."""


def _pair(name: str, ldm: str, weight: Shape, bias: bool = True) -> Iterator[Slot]:
    yield Slot(f"{name}.weight", f"{ldm}.weight", weight)
    if bias:
        yield Slot(f"{name}.bias", f"{ldm}.bias", weight[:1])


def _conv(name: str, ldm: str, inside: int, outside: int, kernel: int = 3) -> Iterator[Slot]:
    return _pair(name, ldm, (outside, inside, kernel, kernel))


def unet_slots(config: UnetConfig) -> Iterator[Slot]:
    """Every tensor of a U-Net."""
    channels = config.block_channels
    first, last, levels = channels[0], channels[-1], len(channels)
    time = 4 * first
    yield from _pair("time_embedding.linear_1", "time_embed.0", (time, first))
    yield from _pair("time_embedding.linear_2", "time_embed.2", (time, time))
    if config.guidance_dim is not None:
        shape = (first, config.guidance_dim)
        yield from _pair("time_embedding.cond_proj", "time_embed.cond_proj", shape, bias=False)
    if config.class_embeds is not None:
        shape = (config.class_embeds, time)
        yield from _pair("class_embedding", "label_emb", shape, bias=False)
    if config.label_dim is not None:
        yield from _pair("add_embedding.linear_1", "label_emb.0.0", (time, config.label_dim))
        yield from _pair("add_embedding.linear_2", "label_emb.0.2", (time, time))
    yield from _conv("conv_in", "input_blocks.0.0", config.in_channels, first)
    skips = [first]
    width = first
    for level in range(levels):
        block = f"down_blocks.{level}"
        for layer in range(config.layers_per_block):
            ldm = f"input_blocks.{len(skips)}"
            name = f"{block}.resnets.{layer}"
            yield from _unet_resnet(name, f"{ldm}.0", width, channels[level], time)
            width = channels[level]
            if depth := config.down_depth(level, layer):
                name = f"{block}.attentions.{layer}"
                yield from _transformer(name, f"{ldm}.1", config, level, depth)
            skips.append(width)
        if level < levels - 1:
            ldm = f"input_blocks.{len(skips)}.0.op"
            yield from _conv(f"{block}.downsamplers.0.conv", ldm, width, width)
            skips.append(width)
    if config.middle != "none":
        yield from _unet_resnet("mid_block.resnets.0", "middle_block.0", last, last, time)
    if depth := config.mid_depth:
        name = "mid_block.attentions.0"
        yield from _transformer(name, "middle_block.1", config, levels - 1, depth, crossed=False)
        yield from _unet_resnet("mid_block.resnets.1", "middle_block.2", last, last, time)
    number = 0
    for index in range(levels):
        level = levels - 1 - index
        block = f"up_blocks.{index}"
        attention = config.up_attention[index]
        for layer in range(config.layers_per_block + 1):
            ldm = f"output_blocks.{number}"
            name = f"{block}.resnets.{layer}"
            yield from _unet_resnet(name, f"{ldm}.0", width + skips.pop(), channels[level], time)
            width = channels[level]
            if depth := config.up_depth(index, layer):
                name = f"{block}.attentions.{layer}"
                yield from _transformer(name, f"{ldm}.1", config, level, depth)
            number += 1
        if level > 0:
            ldm = f"output_blocks.{number - 1}.{2 if attention else 1}.conv"
            yield from _conv(f"{block}.upsamplers.0.conv", ldm, width, width)
    yield from _pair("conv_norm_out", "out.0", (first,))
    yield from _conv("conv_out", "out.2", first, config.out_channels)


def controlnet_slots(config: ControlNetConfig) -> Iterator[Slot]:
    """Every tensor of a ControlNet."""
    unet = config.unet
    for slot in unet_slots(unet):
        if not slot.name.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")):
            yield slot
    name, old = "controlnet_cond_embedding", "input_hint_block"
    sizes = config.embedding
    yield from _conv(f"{name}.conv_in", f"{old}.0", 3, sizes[0])
    for index in range(2 * len(sizes) - 2):
        inside, outside = sizes[index // 2], sizes[(index + 1) // 2]
        yield from _conv(f"{name}.blocks.{index}", f"{old}.{2 * index + 2}", inside, outside)
    last = f"{old}.{4 * len(sizes) - 2}"
    yield from _conv(f"{name}.conv_out", last, sizes[-1], unet.block_channels[0])
    widths = skip_widths(unet)
    for index, width in enumerate(widths):
        place = f"zero_convs.{index}.0"
        yield from _conv(f"controlnet_down_blocks.{index}", place, width, width, 1)
    yield from _conv("controlnet_mid_block", "middle_block_out.0", widths[-1], widths[-1], 1)


def t2i_slots(config: T2IAdapterConfig) -> Iterator[Slot]:
    """Every tensor of a T2I-Adapter; the original layout numbers its ResNets through."""
    inside = config.in_channels * config.factor**2
    light = config.kind == "light"
    if not light:
        yield from _conv("adapter.conv_in", "conv_in", inside, config.channels[0])
        inside = config.channels[0]
    for index, channels in enumerate(config.channels):
        name, inner = f"adapter.body.{index}", channels // 4 if light else channels
        first = f"body.{index if light else index * config.blocks}"
        if light or inside != inner:
            yield from _conv(f"{name}.in_conv", f"{first}.in_conv", inside, inner, 1)
        for layer in range(config.blocks):
            old = f"{first}.body.{layer}" if light else f"body.{index * config.blocks + layer}"
            block = f"{name}.resnets.{layer}"
            yield from _conv(f"{block}.block1", f"{old}.block1", inner, inner)
            kernel = 3 if light else 1
            yield from _conv(f"{block}.block2", f"{old}.block2", inner, inner, kernel)
        if light:
            yield from _conv(f"{name}.out_conv", f"{first}.out_conv", inner, channels, 1)
        inside = channels


def skip_widths(config: UnetConfig) -> list[int]:
    """Channels of what the way up of a U-Net looks back at, in the order it is made."""
    widths = [config.block_channels[0]]
    for level, channels in enumerate(config.block_channels):
        down = level < len(config.block_channels) - 1
        widths += [channels] * (config.layers_per_block + down)
    return widths


def _unet_resnet(name: str, ldm: str, inside: int, outside: int, time: int) -> Iterator[Slot]:
    yield from _pair(f"{name}.norm1", f"{ldm}.in_layers.0", (inside,))
    yield from _conv(f"{name}.conv1", f"{ldm}.in_layers.2", inside, outside)
    yield from _pair(f"{name}.time_emb_proj", f"{ldm}.emb_layers.1", (outside, time))
    yield from _pair(f"{name}.norm2", f"{ldm}.out_layers.0", (outside,))
    yield from _conv(f"{name}.conv2", f"{ldm}.out_layers.3", outside, outside)
    if inside != outside:
        yield from _conv(f"{name}.conv_shortcut", f"{ldm}.skip_connection", inside, outside, 1)


def _transformer(
    name: str, ldm: str, config: UnetConfig, level: int, blocks: int, crossed: bool | None = None
) -> Iterator[Slot]:
    width = config.block_channels[level]
    crossed = config.looks_twice(level) if crossed is None else crossed
    first = config.cross_dim if crossed else width
    square = (width, width) if config.linear_projection else (width, width, 1, 1)
    yield from _pair(f"{name}.norm", f"{ldm}.norm", (width,))
    yield from _pair(f"{name}.proj_in", f"{ldm}.proj_in", square)
    for depth in range(blocks):
        # Both schemes name the inside of a transformer block alike.
        block = f".transformer_blocks.{depth}"
        for norm in ("norm1", "norm2", "norm3"):
            yield from _pair(f"{name}{block}.{norm}", f"{ldm}{block}.{norm}", (width,))
        for attention, context in (("attn1", first), ("attn2", config.cross_dim)):
            inner = f"{block}.{attention}"
            for part, inside in (("to_q", width), ("to_k", context), ("to_v", context)):
                shape = (width, inside)
                yield from _pair(f"{name}{inner}.{part}", f"{ldm}{inner}.{part}", shape, bias=False)
            yield from _pair(f"{name}{inner}.to_out.0", f"{ldm}{inner}.to_out.0", (width, width))
        gate, back = f"{block}.ff.net.0.proj", f"{block}.ff.net.2"
        yield from _pair(f"{name}{gate}", f"{ldm}{gate}", (8 * width, width))
        yield from _pair(f"{name}{back}", f"{ldm}{back}", (width, 4 * width))
    yield from _pair(f"{name}.proj_out", f"{ldm}.proj_out", square)


def vae_slots(config: VaeConfig) -> Iterator[Slot]:
    """Every tensor of an autoencoder."""
    channels = config.block_channels
    levels = len(channels)
    latent = config.latent_channels
    yield from _conv("encoder.conv_in", "encoder.conv_in", config.in_channels, channels[0])
    width = channels[0]
    for level in range(levels):
        name, ldm = f"encoder.down_blocks.{level}", f"encoder.down.{level}"
        for layer in range(config.layers_per_block):
            block = f"{ldm}.block.{layer}"
            yield from _vae_resnet(f"{name}.resnets.{layer}", block, width, channels[level])
            width = channels[level]
        if level < levels - 1:
            place = f"{ldm}.downsample.conv"
            yield from _conv(f"{name}.downsamplers.0.conv", place, width, width)
    yield from _vae_middle("encoder", config, width)
    yield from _vae_end("encoder", width, 2 * latent)
    yield from _conv("decoder.conv_in", "decoder.conv_in", latent, width)
    yield from _vae_middle("decoder", config, width)
    for index in range(levels):
        level = levels - 1 - index
        name, ldm = f"decoder.up_blocks.{index}", f"decoder.up.{level}"
        for layer in range(config.layers_per_block + 1):
            block = f"{ldm}.block.{layer}"
            yield from _vae_resnet(f"{name}.resnets.{layer}", block, width, channels[level])
            width = channels[level]
        if level > 0:
            yield from _conv(f"{name}.upsamplers.0.conv", f"{ldm}.upsample.conv", width, width)
    yield from _vae_end("decoder", width, config.out_channels)
    if config.quant_conv:
        yield from _conv("quant_conv", "quant_conv", 2 * latent, 2 * latent, 1)
    if config.post_quant_conv:
        yield from _conv("post_quant_conv", "post_quant_conv", latent, latent, 1)


def _vae_resnet(name: str, ldm: str, inside: int, outside: int) -> Iterator[Slot]:
    yield from _pair(f"{name}.norm1", f"{ldm}.norm1", (inside,))
    yield from _conv(f"{name}.conv1", f"{ldm}.conv1", inside, outside)
    yield from _pair(f"{name}.norm2", f"{ldm}.norm2", (outside,))
    yield from _conv(f"{name}.conv2", f"{ldm}.conv2", outside, outside)
    if inside != outside:
        yield from _conv(f"{name}.conv_shortcut", f"{ldm}.nin_shortcut", inside, outside, 1)


def _vae_middle(half: str, config: VaeConfig, width: int) -> Iterator[Slot]:
    name, ldm = f"{half}.mid_block", f"{half}.mid"
    yield from _vae_resnet(f"{name}.resnets.0", f"{ldm}.block_1", width, width)
    if config.mid_attention:
        attention, old = f"{name}.attentions.0", f"{ldm}.attn_1"
        yield from _pair(f"{attention}.group_norm", f"{old}.norm", (width,))
        for part, letter in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            yield from _pair(f"{attention}.{part}", f"{old}.{letter}", (width, width))
    yield from _vae_resnet(f"{name}.resnets.1", f"{ldm}.block_2", width, width)


def _vae_end(half: str, width: int, outside: int) -> Iterator[Slot]:
    yield from _pair(f"{half}.conv_norm_out", f"{half}.norm_out", (width,))
    yield from _conv(f"{half}.conv_out", f"{half}.conv_out", width, outside)


def text_slots(config: ClipTextConfig) -> Iterator[Slot]:
    """Every tensor of a CLIP text encoder; LDM keeps transformers' names for it."""
    width, inner = config.hidden_size, config.intermediate_size
    for name, shape in (
        ("embeddings.token_embedding.weight", (config.vocab_size, width)),
        ("embeddings.position_embedding.weight", (config.positions, width)),
    ):
        yield Slot(f"text_model.{name}", f"text_model.{name}", shape)
    for layer in range(config.layers):
        start = f"text_model.encoder.layers.{layer}"
        for part, weight in (
            ("layer_norm1", (width,)),
            ("self_attn.q_proj", (width, width)),
            ("self_attn.k_proj", (width, width)),
            ("self_attn.v_proj", (width, width)),
            ("self_attn.out_proj", (width, width)),
            ("layer_norm2", (width,)),
            ("mlp.fc1", (inner, width)),
            ("mlp.fc2", (width, inner)),
        ):
            yield from _pair(f"{start}.{part}", f"{start}.{part}", weight)
    yield from _pair("text_model.final_layer_norm", "text_model.final_layer_norm", (width,))
    if config.projection is not None:
        shape = (config.projection, width)
        yield from _pair("text_projection", "text_projection", shape, bias=False)
