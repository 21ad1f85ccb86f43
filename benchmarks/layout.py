"""Tensors of Stable Diffusion checkpoints: names in LDM and diffusers layout, and shapes.

One walk over the structure gives both names of every tensor, so that a random checkpoint can be
written in either layout with the same values. Names of output blocks, VAE levels and so on follow
the public checkpoints; this list shares no code with the exporter's key maps, which it tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig

SILU_GAIN = 1.68
"""1 / sqrt(E[silu(z)^2]) for standard normal z: keeps the deviation at one after a SiLU."""
BRANCH_GAIN = 0.3
"""Deviation that a residual branch adds to its trunk."""


@dataclass(frozen=True)
class Spec:
    """One tensor."""

    ldm: str
    """Name in a single file, without the component's prefix."""
    diffusers: tuple[str, ...]
    """Names in a diffusers folder; several where the single file stacks them on axis 0."""
    shape: tuple[int, ...]
    """Shape in the single file; a diffusers VAE drops the 1x1 of its attention weights."""
    kind: str
    """``weight``, ``bias``, ``norm_weight``, ``norm_bias``, ``embedding`` or ``position_ids``."""
    gain: float = 1.0
    """Deviation of the output for inputs of deviation one (weights), or of the values."""
    transposed: bool = False
    """Stored (in, out) in the single file and (out, in) in diffusers."""


def _layer(
    ldm: str, diffusers: str, shape: tuple[int, ...], gain: float = 1.0, bias: bool = True
) -> Iterator[Spec]:
    yield Spec(f"{ldm}.weight", (f"{diffusers}.weight",), shape, "weight", gain)
    if bias:
        yield Spec(f"{ldm}.bias", (f"{diffusers}.bias",), shape[:1], "bias")


def _norm(ldm: str, diffusers: str, width: int) -> Iterator[Spec]:
    yield Spec(f"{ldm}.weight", (f"{diffusers}.weight",), (width,), "norm_weight")
    yield Spec(f"{ldm}.bias", (f"{diffusers}.bias",), (width,), "norm_bias")


def _unet_resnet(ldm: str, diffusers: str, inner: int, outer: int, time: int) -> Iterator[Spec]:
    yield from _norm(f"{ldm}.in_layers.0", f"{diffusers}.norm1", inner)
    yield from _layer(f"{ldm}.in_layers.2", f"{diffusers}.conv1", (outer, inner, 3, 3), SILU_GAIN)
    yield from _layer(
        f"{ldm}.emb_layers.1", f"{diffusers}.time_emb_proj", (outer, time), 0.5 * SILU_GAIN
    )
    yield from _norm(f"{ldm}.out_layers.0", f"{diffusers}.norm2", outer)
    yield from _layer(
        f"{ldm}.out_layers.3",
        f"{diffusers}.conv2",
        (outer, outer, 3, 3),
        SILU_GAIN * BRANCH_GAIN,
    )
    if inner != outer:
        yield from _layer(
            f"{ldm}.skip_connection", f"{diffusers}.conv_shortcut", (outer, inner, 1, 1)
        )


def _transformer(
    ldm: str,
    diffusers: str,
    width: int,
    depth: int,
    config: UnetConfig,
    cross_only: bool = False,
) -> Iterator[Spec]:
    square = (width, width) if config.linear_projection else (width, width, 1, 1)
    yield from _norm(f"{ldm}.norm", f"{diffusers}.norm", width)
    yield from _layer(f"{ldm}.proj_in", f"{diffusers}.proj_in", square)
    first = config.cross_dim if cross_only else width
    for index in range(depth):
        ours, theirs = (f"{name}.transformer_blocks.{index}" for name in (ldm, diffusers))
        for attention, source in (("attn1", first), ("attn2", config.cross_dim)):
            at, to = f"{ours}.{attention}", f"{theirs}.{attention}"
            yield from _layer(f"{at}.to_q", f"{to}.to_q", (width, width), bias=False)
            yield from _layer(f"{at}.to_k", f"{to}.to_k", (width, source), bias=False)
            yield from _layer(f"{at}.to_v", f"{to}.to_v", (width, source), bias=False)
            yield from _layer(f"{at}.to_out.0", f"{to}.to_out.0", (width, width), BRANCH_GAIN)
        yield from _layer(f"{ours}.ff.net.0.proj", f"{theirs}.ff.net.0.proj", (8 * width, width))
        yield from _layer(
            f"{ours}.ff.net.2", f"{theirs}.ff.net.2", (width, 4 * width), 1.5 * BRANCH_GAIN
        )
        for norm in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{ours}.{norm}", f"{theirs}.{norm}", width)
    yield from _layer(f"{ldm}.proj_out", f"{diffusers}.proj_out", square, BRANCH_GAIN)


def unet_specs(config: UnetConfig, label_width: int | None = None) -> Iterator[Spec]:
    """Tensors under ``model.diffusion_model.``; ``label_width`` is SDXL's vector conditioning."""
    widths, layers = config.block_channels, config.layers_per_block
    time, levels = 4 * widths[0], len(config.block_channels)
    yield from _layer("time_embed.0", "time_embedding.linear_1", (time, widths[0]), 1.4)
    yield from _layer("time_embed.2", "time_embedding.linear_2", (time, time), SILU_GAIN)
    if label_width is not None:
        yield from _layer("label_emb.0.0", "add_embedding.linear_1", (time, label_width))
        yield from _layer("label_emb.0.2", "add_embedding.linear_2", (time, time), SILU_GAIN)
    if config.class_embeds is not None:
        name, shape = "class_embedding.weight", (config.class_embeds, time)
        yield Spec("label_emb.weight", (name,), shape, "embedding", SILU_GAIN)
    crosses = config.cross_only or (False,) * levels
    yield from _layer("input_blocks.0.0", "conv_in", (widths[0], config.in_channels, 3, 3))
    number, trunk, skips = 1, widths[0], [widths[0]]
    for level, width in enumerate(widths):
        down = f"down_blocks.{level}"
        for layer in range(layers):
            block = f"input_blocks.{number}"
            yield from _unet_resnet(f"{block}.0", f"{down}.resnets.{layer}", trunk, width, time)
            if config.down_attention[level]:
                depth = config.transformer_depth[level]
                yield from _transformer(
                    f"{block}.1", f"{down}.attentions.{layer}", width, depth, config, crosses[level]
                )
            trunk, number = width, number + 1
            skips.append(trunk)
        if level < levels - 1:
            shape = (width, width, 3, 3)
            yield from _layer(f"input_blocks.{number}.0.op", f"{down}.downsamplers.0.conv", shape)
            number += 1
            skips.append(trunk)
    depth = config.transformer_depth[-1]
    yield from _unet_resnet("middle_block.0", "mid_block.resnets.0", trunk, trunk, time)
    yield from _transformer("middle_block.1", "mid_block.attentions.0", trunk, depth, config)
    yield from _unet_resnet("middle_block.2", "mid_block.resnets.1", trunk, trunk, time)
    number = 0
    for step, width in enumerate(reversed(widths)):
        up = f"up_blocks.{step}"
        for layer in range(layers + 1):
            block, place = f"output_blocks.{number}", 1
            resnet = f"{up}.resnets.{layer}"
            yield from _unet_resnet(f"{block}.0", resnet, trunk + skips.pop(), width, time)
            if config.up_attention[step]:
                depth = config.transformer_depth[levels - 1 - step]
                crossed = crosses[levels - 1 - step]
                yield from _transformer(
                    f"{block}.1", f"{up}.attentions.{layer}", width, depth, config, crossed
                )
                place = 2
            if layer == layers and step < levels - 1:
                yield from _layer(
                    f"{block}.{place}.conv", f"{up}.upsamplers.0.conv", (width, width, 3, 3)
                )
            trunk, number = width, number + 1
    yield from _norm("out.0", "conv_norm_out", trunk)
    yield from _layer("out.2", "conv_out", (config.out_channels, trunk, 3, 3), SILU_GAIN)


def _vae_resnet(ldm: str, diffusers: str, inner: int, outer: int) -> Iterator[Spec]:
    yield from _norm(f"{ldm}.norm1", f"{diffusers}.norm1", inner)
    yield from _layer(f"{ldm}.conv1", f"{diffusers}.conv1", (outer, inner, 3, 3), SILU_GAIN)
    yield from _norm(f"{ldm}.norm2", f"{diffusers}.norm2", outer)
    yield from _layer(
        f"{ldm}.conv2", f"{diffusers}.conv2", (outer, outer, 3, 3), SILU_GAIN * BRANCH_GAIN
    )
    if inner != outer:
        yield from _layer(f"{ldm}.nin_shortcut", f"{diffusers}.conv_shortcut", (outer, inner, 1, 1))


def _vae_middle(side: str, width: int) -> Iterator[Spec]:
    ldm, diffusers = f"{side}.mid", f"{side}.mid_block"
    yield from _vae_resnet(f"{ldm}.block_1", f"{diffusers}.resnets.0", width, width)
    at, to = f"{ldm}.attn_1", f"{diffusers}.attentions.0"
    yield from _norm(f"{at}.norm", f"{to}.group_norm", width)
    for ours, theirs, gain in (
        ("q", "to_q", 1.0),
        ("k", "to_k", 1.0),
        ("v", "to_v", 1.0),
        ("proj_out", "to_out.0", BRANCH_GAIN),
    ):
        yield from _layer(f"{at}.{ours}", f"{to}.{theirs}", (width, width, 1, 1), gain)
    yield from _vae_resnet(f"{ldm}.block_2", f"{diffusers}.resnets.1", width, width)


def vae_specs(config: VaeConfig) -> Iterator[Spec]:
    """Tensors under ``first_stage_model.``."""
    widths, layers, latent = config.block_channels, config.layers_per_block, config.latent_channels
    yield from _layer("encoder.conv_in", "encoder.conv_in", (widths[0], config.in_channels, 3, 3))
    trunk = widths[0]
    for level, width in enumerate(widths):
        ldm, diffusers = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for layer in range(layers):
            yield from _vae_resnet(
                f"{ldm}.block.{layer}", f"{diffusers}.resnets.{layer}", trunk, width
            )
            trunk = width
        if level < len(widths) - 1:
            yield from _layer(
                f"{ldm}.downsample.conv", f"{diffusers}.downsamplers.0.conv", (width, width, 3, 3)
            )
    yield from _vae_middle("encoder", trunk)
    yield from _norm("encoder.norm_out", "encoder.conv_norm_out", trunk)
    yield from _layer("encoder.conv_out", "encoder.conv_out", (2 * latent, trunk, 3, 3), SILU_GAIN)
    yield from _layer("decoder.conv_in", "decoder.conv_in", (trunk, latent, 3, 3))
    yield from _vae_middle("decoder", trunk)
    for step, width in enumerate(reversed(widths)):
        level = len(widths) - 1 - step
        ldm, diffusers = f"decoder.up.{level}", f"decoder.up_blocks.{step}"
        for layer in range(layers + 1):
            yield from _vae_resnet(
                f"{ldm}.block.{layer}", f"{diffusers}.resnets.{layer}", trunk, width
            )
            trunk = width
        if level > 0:
            yield from _layer(
                f"{ldm}.upsample.conv", f"{diffusers}.upsamplers.0.conv", (width, width, 3, 3)
            )
    yield from _norm("decoder.norm_out", "decoder.conv_norm_out", trunk)
    shape = (config.out_channels, trunk, 3, 3)
    yield from _layer("decoder.conv_out", "decoder.conv_out", shape, 0.5 * SILU_GAIN)
    if config.quant_conv:
        yield from _layer("quant_conv", "quant_conv", (2 * latent, 2 * latent, 1, 1))
    if config.post_quant_conv:
        yield from _layer("post_quant_conv", "post_quant_conv", (latent, latent, 1, 1))


def clip_specs(config: ClipTextConfig) -> Iterator[Spec]:
    """Tensors of a text encoder in transformers' naming, which LDM files of SD1 use too."""
    width, inner = config.hidden_size, config.intermediate_size
    specs = [
        *_clip_embeddings(config),
        *(
            spec
            for layer in range(config.layers)
            for spec in _clip_layer(f"text_model.encoder.layers.{layer}", width, inner)
        ),
        *_norm("text_model.final_layer_norm", "text_model.final_layer_norm", width),
    ]
    if config.projection is not None:
        specs += _layer(
            "text_projection", "text_projection", (config.projection, width), bias=False
        )
    yield from specs


def _clip_embeddings(config: ClipTextConfig) -> Iterator[Spec]:
    stem = "text_model.embeddings"
    # Newer transformers keep position_ids out of the state dict; LDM files carry them.
    yield Spec(f"{stem}.position_ids", (), (1, config.positions), "position_ids")
    for name, rows, gain in (
        ("token_embedding", config.vocab_size, 1.0),
        ("position_embedding", config.positions, 0.3),
    ):
        key = f"{stem}.{name}.weight"
        yield Spec(key, (key,), (rows, config.hidden_size), "embedding", gain)


def _clip_layer(stem: str, width: int, inner: int) -> Iterator[Spec]:
    for name in ("q_proj", "k_proj", "v_proj"):
        key = f"{stem}.self_attn.{name}"
        yield from _layer(key, key, (width, width))
    for name, shape, gain in (
        ("self_attn.out_proj", (width, width), BRANCH_GAIN),
        ("mlp.fc1", (inner, width), 1.0),
        ("mlp.fc2", (width, inner), 1.5 * BRANCH_GAIN),
    ):
        yield from _layer(f"{stem}.{name}", f"{stem}.{name}", shape, gain)
    for name in ("layer_norm1", "layer_norm2"):
        yield from _norm(f"{stem}.{name}", f"{stem}.{name}", width)


OPEN_CLIP = (
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
)


def open_clip_specs(config: ClipTextConfig) -> Iterator[Spec]:
    """The same in OpenCLIP's naming, as SD2 and SDXL's second encoder have it."""
    width = config.hidden_size
    for name, rows in (
        ("token_embedding.weight", config.vocab_size),
        ("positional_embedding", config.positions),
    ):
        stem = name.split(".")[0].replace("positional", "position")
        key = f"text_model.embeddings.{stem}.weight"
        yield Spec(name, (key,), (rows, width), "embedding", 1.0 if rows > 1000 else 0.3)
    for layer in range(config.layers):
        ours = f"transformer.resblocks.{layer}"
        theirs = f"text_model.encoder.layers.{layer}"
        for part, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            keys = tuple(f"{theirs}.self_attn.{name}_proj.{part}" for name in "qkv")
            yield Spec(f"{ours}.attn.in_proj_{part}", keys, shape, part)
        for spec in _clip_layer(theirs, width, config.intermediate_size):
            for their_name, our_name in OPEN_CLIP:
                stem, suffix = spec.ldm.rsplit(".", 1)
                if stem == f"{theirs}.{their_name}":
                    yield replace(spec, ldm=f"{ours}.{our_name}.{suffix}")
    yield from _norm("ln_final", "text_model.final_layer_norm", width)
    if config.projection is not None:
        shape = (width, config.projection)
        names = ("text_projection.weight",)
        yield Spec("text_projection", names, shape, "weight", transposed=True)
