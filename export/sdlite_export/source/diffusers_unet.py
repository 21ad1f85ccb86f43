"""Read the configuration of diffusers' U-Net; what it asks beyond the families is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite_export.configs import ControlNetConfig, Depth, Middle, UnetConfig
from sdlite_export.source.config_reader import ConfigReader

MAX_BLOCKS = 2048
"""Most ResNet and transformer blocks of a U-Net in all: listing more would take long; SDXL has
90."""
MIDDLES: Mapping[str | None, Middle] = {
    "UNetMidBlock2DCrossAttn": "attention",
    "UNetMidBlock2D": "resnet",
    None: "none",
}

UNET_FIXED: Mapping[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text_time"),
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
"""Features of diffusers' U-Net that no family here uses, with the values that say so."""
CONTROL_FIXED: Mapping[str, tuple[Any, ...]] = {
    "controlnet_conditioning_channel_order": ("rgb",),
    "conditioning_channels": (3,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
}
"""The same of diffusers' ControlNet."""
CONTROL_READ = frozenset(["conditioning_embedding_out_channels", "global_pool_conditions"])
UNET_READ = frozenset(
    [
        "in_channels",
        "out_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "up_block_types",
        "attention_head_dim",
        "num_attention_heads",
        "transformer_layers_per_block",
        "reverse_transformer_layers_per_block",
        "mid_block_type",
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
        "time_cond_proj_dim",
        "cross_attention_dim",
        "use_linear_projection",
        "norm_num_groups",
        "norm_eps",
        "flip_sin_to_cos",
        "freq_shift",
        "num_class_embeds",
        "only_cross_attention",
    ]
)
UNET_HARMLESS = frozenset(
    ["sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads"]
)
"""Neither shapes nor numbers of an inference in float32 depend on these."""


def read_unet(path: Path) -> UnetConfig:
    """A U-Net's numbers; raises ``UnknownFamily`` for features beyond the families."""
    reader = ConfigReader(path)
    reader.refuse(UNET_FIXED, UNET_READ | UNET_HARMLESS)
    return _numbers(reader, whole=True)


def read_controlnet(path: Path) -> ControlNetConfig:
    """A ControlNet's numbers; raises ``UnknownFamily`` for features beyond the families."""
    reader = ConfigReader(path)
    reader.refuse({**UNET_FIXED, **CONTROL_FIXED}, UNET_READ | UNET_HARMLESS | CONTROL_READ)
    return ControlNetConfig(
        _numbers(reader, whole=False),
        reader.sizes("conditioning_embedding_out_channels", default=[16, 32, 96, 256]),
        reader.get("global_pool_conditions", bool, False),
    )


def _numbers(reader: ConfigReader, whole: bool) -> UnetConfig:
    path = reader.path
    channels = reader.sizes("block_out_channels")
    levels = len(channels)
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    down = attention_blocks(reader, "down_block_types", kinds, levels)
    kinds = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
    up = attention_blocks(reader, "up_block_types", kinds, levels) if whole else down[::-1]
    if up != down[::-1]:
        raise UnknownFamily(f"{path}: up_block_types do not mirror down_block_types; not supported")
    # Diffusers' attention_head_dim is the number of heads, a misnomer kept for old files.
    heads_key = "num_attention_heads" if reader.data.get("num_attention_heads") else None
    heads = reader.sizes(heads_key or "attention_head_dim", levels, default=8)
    layers = reader.size("layers_per_block", 2)
    depths = _depths(reader, "transformer_layers_per_block", levels, layers, 1)
    assert depths is not None
    up_depths = _depths(
        reader, "reverse_transformer_layers_per_block", levels, layers + 1, default=None
    )
    if up_depths is None and any(isinstance(depth, tuple) for depth in depths):
        raise SourceCorrupt(
            f"{path}: transformer_layers_per_block differs within a block, so "
            "reverse_transformer_layers_per_block must be there"
        )
    middle = reader.data.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if middle is not None and (not isinstance(middle, str) or middle not in MIDDLES):
        known = ", ".join(name for name in MIDDLES if name)
        raise UnknownFamily(f"{path}: mid_block_type {middle!r}; known: {known}")
    labels = reader.data.get("addition_embed_type") is not None
    guided = reader.data.get("time_cond_proj_dim") is not None
    classes = reader.data.get("num_class_embeds") is not None
    config = UnetConfig(
        in_channels=reader.size("in_channels", 4),
        out_channels=reader.size("out_channels", 4),
        block_channels=channels,
        layers_per_block=layers,
        down_attention=down,
        up_attention=up,
        heads=heads,
        transformer_depth=depths,
        cross_dim=reader.size("cross_attention_dim"),
        linear_projection=reader.get("use_linear_projection", bool, False),
        norm_groups=reader.size("norm_num_groups", 32),
        norm_eps=reader.epsilon("norm_eps", 1e-5),
        flip_sin_to_cos=reader.get("flip_sin_to_cos", bool, True),
        freq_shift=reader.get("freq_shift", float, 0.0),
        up_transformer_depth=up_depths,
        middle=MIDDLES[middle],
        label_dim=reader.size("projection_class_embeddings_input_dim") if labels else None,
        size_dim=reader.size("addition_time_embed_dim") if labels else 256,
        guidance_dim=reader.size("time_cond_proj_dim") if guided else None,
        class_embeds=reader.size("num_class_embeds") if classes else None,
        cross_only=_cross_only(reader, down),
    )
    _check(str(path), config)
    return config


def _check(where: str, config: UnetConfig) -> None:
    blocks = config.transformers + len(config.block_channels) * (2 * config.layers_per_block + 1)
    if blocks > MAX_BLOCKS:
        raise SourceCorrupt(f"{where}: {blocks} blocks in all, at most {MAX_BLOCKS} make sense")
    for width, count in zip(config.block_channels, config.heads, strict=True):
        if width % count or width % config.norm_groups:
            raise SourceCorrupt(
                f"{where}: {width} channels divide neither into {count} heads "
                f"nor into {config.norm_groups} groups"
                if width % count and width % config.norm_groups
                else f"{where}: {width} channels do not divide into "
                + (f"{count} heads" if width % count else f"{config.norm_groups} groups")
            )


def _cross_only(reader: ConfigReader, attention: tuple[bool, ...]) -> tuple[bool, ...]:
    """Where transformers look at the text alone: one word for all resolutions, or one each.

    ``attention`` says where there are any.
    """
    levels = len(attention)
    value = reader.data.get("only_cross_attention") or False
    flags = [value] * levels if isinstance(value, bool) else value
    whole = isinstance(flags, list) and all(isinstance(flag, bool) for flag in flags)
    if not whole or len(flags) != levels:
        raise SourceCorrupt(
            f"{reader.path}: only_cross_attention {value!r} is neither true nor false, nor a list "
            f"of {levels} of them"
        )
    both = tuple(flag and there for flag, there in zip(flags, attention, strict=True))
    return both if any(both) else ()


def _depths(
    reader: ConfigReader, key: str, levels: int, layers: int, default: int | None
) -> tuple[Depth, ...] | None:
    """Transformer blocks by resolution: one number for all, one each, or one each layer."""
    value = reader.data.get(key)
    value = default if value is None else value
    if value is None:
        return None
    if not isinstance(value, list):
        return (reader.check_size(key, value),) * levels
    if len(value) != levels:
        raise SourceCorrupt(f"{reader.path}: {key} has {len(value)} entries, {levels} expected")
    found: list[Depth] = []
    for item in value:
        if not isinstance(item, list):
            found.append(reader.check_size(key, item))
        elif len(item) == layers:
            found.append(tuple(reader.check_size(key, depth) for depth in item))
        else:
            raise SourceCorrupt(
                f"{reader.path}: {key} gives a block {len(item)} numbers, it has {layers} layers"
            )
    return tuple(found)


def attention_blocks(
    reader: ConfigReader, key: str, kinds: Mapping[str, bool], count: int
) -> tuple[bool, ...]:
    """Which blocks have transformers; raises ``UnknownFamily`` for a kind of block not known."""
    names = reader.names(key, count)
    odd = [name for name in names if name not in kinds]
    if odd:
        raise UnknownFamily(
            f"{reader.path}: block {odd[0]!r} is not supported; known: {', '.join(kinds)}"
        )
    return tuple(kinds[name] for name in names)
