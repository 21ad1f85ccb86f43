"""Text encoders of single files: where they lie, and OpenCLIP's names as transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sdlite.tensors.base import Tensors
from sdlite_export.source.family import FIRST, SECOND
from sdlite_export.source.gather import Found


@dataclass(frozen=True)
class TextPlace:
    """Where a text encoder may lie in a single file."""

    component: str
    """``text_encoder`` or ``text_encoder_2``."""
    prefix: str
    """Start of its tensors' names."""
    open_clip: bool = False
    """Whether OpenCLIP's names follow instead of transformers'."""


PLACES = (
    TextPlace(FIRST, "cond_stage_model.transformer."),
    TextPlace(FIRST, "cond_stage_model.model.", open_clip=True),
    TextPlace(FIRST, "conditioner.embedders.0.transformer."),
    TextPlace(SECOND, "conditioner.embedders.1.model.", open_clip=True),
    TextPlace(SECOND, "conditioner.embedders.0.model.", open_clip=True),
    TextPlace(FIRST, "text_encoder."),
    TextPlace(SECOND, "text_encoder_2."),
)
"""SD1; SD2; SDXL's two; the refiner's only one; diffusers' names in one file."""

LAYER = re.compile(r"transformer\.resblocks\.(\d{1,4})\.(.+)\.(weight|bias)")
JOINED = re.compile(r"transformer\.resblocks\.(\d{1,4})\.attn\.in_proj_(weight|bias)")
OUR_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d{1,4})\.")
LAYER_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OTHERS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
UNUSED = ("logit_scale", "attn_mask")
"""Buffers and training state that no text encoder here computes with."""
VIT_H = (1024, 24)
"""Width and layers of the OpenCLIP encoder of SD2, which is used without its last layer."""


def find_text(source: Tensors) -> dict[str, tuple[TextPlace, dict[str, Found]]]:
    """Every text encoder of a file: its place and its tensors by transformers' names."""
    found = {}
    for place in PLACES:
        names = {
            name[len(place.prefix) :]: name
            for name in source.infos()
            if name.startswith(place.prefix)
        }
        if names and place.component not in found:
            translate = _open_clip if place.open_clip else _transformers
            found[place.component] = (place, translate(source, names))
    return dict(sorted(found.items()))


def without_last_layer(found: Mapping[str, Found]) -> dict[str, Found]:
    """SD2's encoder as it is used: without its last layer and its projection.

    A file made from a diffusers folder lacks that layer already and is left as it is.
    """
    norm = found.get("text_model.final_layer_norm.weight")
    numbers = [int(match[1]) for name in found if (match := OUR_LAYER.match(name))]
    last = max(numbers, default=0)
    width, layers = VIT_H
    shortened = norm is not None and norm.shape == (width,) and last + 1 == layers - 1
    end = f"text_model.encoder.layers.{last}."
    return {
        name: place
        for name, place in found.items()
        if name != "text_projection.weight" and (shortened or not name.startswith(end))
    }


def _transformers(source: Tensors, names: Mapping[str, str]) -> dict[str, Found]:
    """Transformers' names; some files leave ``text_model.`` out of them."""
    found = {}
    for name, full in names.items():
        if name.endswith(("embeddings.position_ids", *UNUSED)):
            continue  # a constant buffer that old transformers stored
        known = name.startswith(("text_model.", "text_projection."))
        found[name if known else f"text_model.{name}"] = Found(source, full)
    return found


def _open_clip(source: Tensors, names: Mapping[str, str]) -> dict[str, Found]:
    """OpenCLIP joins the projections of attention and keeps the last projection transposed.

    Names that are not known stay, so that whoever gathers the tensors can tell of them.
    """
    found = {}
    for name, full in names.items():
        if name in UNUSED:
            continue
        if name in ("text_projection", "text_projection.weight"):
            matrix = Found(source, full, transposed=name == "text_projection")
            found["text_projection.weight"] = matrix
        elif joined := JOINED.fullmatch(name):
            start = f"text_model.encoder.layers.{joined[1]}.self_attn"
            for part, letter in enumerate("qkv"):
                found[f"{start}.{letter}_proj.{joined[2]}"] = Found(source, full, part, 3)
        elif (match := LAYER.fullmatch(name)) and match[2] in LAYER_PARTS:
            start = f"text_model.encoder.layers.{match[1]}.{LAYER_PARTS[match[2]]}"
            found[f"{start}.{match[3]}"] = Found(source, full)
        else:
            found[OTHERS.get(name, name)] = Found(source, full)
    return found
