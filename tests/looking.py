"""Tiny IP-Adapters and image encoders with random weights, as their authors' files have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sdlite_export.configs import ClipVisionConfig, IPAdapterConfig
from sdlite_export.source.ip_adapter import ip_adapter_slots
from sdlite_export.source.layout import Slot
from sdlite_export.source.vision import vision_slots

from tests.adapters import write_torch
from tests.tiny import random_tensors, write_safetensors

ENCODER = ClipVisionConfig(
    hidden_size=24,
    intermediate_size=40,
    layers=3,
    heads=3,
    image_size=20,
    patch_size=5,
    projection=12,
    activation="gelu",
)
CROSSES = (8, 8, 8, 16)
"""Cross-attentions of ``tests.tiny.UNET``: the way down, the way up, the middle."""
PLAIN = IPAdapterConfig("plain", 12, 16, CROSSES, tokens=4)
# diffusers makes no resampler but of 4 layers, whose MLPs are 4 times as wide inside.
PLUS = IPAdapterConfig("plus", 24, 16, CROSSES, tokens=5, inner=32, feed=128, heads=2, depth=4)
FULL = IPAdapterConfig("full", 24, 16, CROSSES, inner=24)


def ip_adapter_tensors(config: IPAdapterConfig, seed: int = 50) -> dict[str, np.ndarray]:
    """Random weights by the names of published files."""
    slots = [Slot(name, name, shape) for name, shape in ip_adapter_slots(config)]
    return random_tensors(slots, np.random.default_rng(seed), "float32")


def make_ip_adapter(path: Path, config: IPAdapterConfig = PLAIN, seed: int = 50) -> Path:
    """Write a file, ``.safetensors`` or two nested mappings as ``torch.save`` writes them."""
    tensors = ip_adapter_tensors(config, seed)
    if path.suffix == ".safetensors":
        write_safetensors(path, tensors)
        return path
    nested: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        nested.setdefault(part, {})[rest] = value
    return write_torch(path, nested)


def make_encoder(folder: Path, config: ClipVisionConfig = ENCODER, seed: int = 60) -> Path:
    """Write a folder in transformers' layout."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_act": config.activation,
        "hidden_size": config.hidden_size,
        "image_size": config.image_size,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.eps,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "patch_size": config.patch_size,
        "projection_dim": config.projection,
    }
    (folder / "config.json").write_text(json.dumps(made))
    slots = [Slot(name, name, shape) for name, shape in vision_slots(config, "vision_model")]
    tensors = random_tensors(slots, np.random.default_rng(seed), "float32")
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
