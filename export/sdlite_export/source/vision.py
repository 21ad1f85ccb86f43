"""CLIP's picture encoders: their numbers, from a configuration, and which tensors they have."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite_export.configs import ClipVisionConfig
from sdlite_export.source.config_reader import ConfigReader
from sdlite_export.source.layout import Shape


def read_vision(path: Path) -> ClipVisionConfig:
    """A picture encoder's numbers, from its own configuration or that of what is built on it."""
    whole = ConfigReader(path)
    reader = whole
    if "vision_config" in whole.data:
        inner = whole.get("vision_config", dict)
        reader = copy.copy(whole)
        reader.data = inner
    activation = reader.get("hidden_act", str, "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise UnknownFamily(f"{path}: hidden_act {activation!r}; known: quick_gelu, gelu")
    config = ClipVisionConfig(
        hidden_size=reader.size("hidden_size", 768),
        intermediate_size=reader.size("intermediate_size", 3072),
        layers=reader.size("num_hidden_layers", 12),
        heads=reader.size("num_attention_heads", 12),
        image_size=reader.size("image_size", 224),
        patch_size=reader.size("patch_size", 32),
        projection=whole.size("projection_dim", 512),
        activation="gelu" if activation == "gelu" else "quick_gelu",
        eps=reader.epsilon("layer_norm_eps", 1e-5),
    )
    if config.hidden_size % config.heads or config.image_size % config.patch_size:
        raise SourceCorrupt(
            f"{path}: width {config.hidden_size} with {config.heads} heads, pictures of "
            f"{config.image_size} in patches of {config.patch_size}: not whole"
        )
    return config


def vision_slots(config: ClipVisionConfig, prefix: str) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a picture encoder's tensors."""
    width = config.hidden_size
    yield f"{prefix}.embeddings.class_embedding", (width,)
    patch = config.patch_size
    yield f"{prefix}.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield f"{prefix}.embeddings.position_embedding.weight", (config.tokens, width)
    for norm in ("pre_layrnorm", "post_layernorm"):
        yield f"{prefix}.{norm}.weight", (width,)
        yield f"{prefix}.{norm}.bias", (width,)
    for index in range(config.layers):
        layer = f"{prefix}.encoder.layers.{index}"
        for part, rows, columns in (
            *((f"self_attn.{name}", width, width) for name in ("q_proj", "k_proj", "v_proj")),
            ("self_attn.out_proj", width, width),
            ("mlp.fc1", config.intermediate_size, width),
            ("mlp.fc2", width, config.intermediate_size),
        ):
            yield f"{layer}.{part}.weight", (rows, columns)
            yield f"{layer}.{part}.bias", (rows,)
        for norm in ("layer_norm1", "layer_norm2"):
            yield f"{layer}.{norm}.weight", (width,)
            yield f"{layer}.{norm}.bias", (width,)
    yield "visual_projection.weight", (config.projection, width)
