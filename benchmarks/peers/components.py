"""Components of a diffusers folder run by torch in float32: what our graphs are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdlite.types import Array


@torch.no_grad()
def references(
    folder: Path, component: str, inputs: Mapping[str, Array], threads: int
) -> dict[str, Array]:
    """Outputs of one component by the names our graphs use; the model is freed afterwards."""
    torch.set_num_threads(threads)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    if component.startswith("text_encoder"):
        found = _text(folder, component, tensors["input_ids"])
    elif component == "unet":
        unet = UNet2DConditionModel.from_pretrained(
            folder, subfolder="unet", torch_dtype=torch.float32
        ).eval()
        added = {name: tensors.pop(name) for name in ("text_embeds", "time_ids") if name in tensors}
        found = {"out_sample": unet(**tensors, added_cond_kwargs=added).sample}
    else:
        vae = AutoencoderKL.from_pretrained(
            folder, subfolder="vae", torch_dtype=torch.float32
        ).eval()
        if component == "vae_decoder":
            found = {"sample": vae.decode(tensors["latent_sample"]).sample}
        else:
            found = {"latent_parameters": vae.encode(tensors["sample"]).latent_dist.parameters}
    return {name: value.numpy() for name, value in found.items()}


def _text(folder: Path, component: str, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """SDXL's second encoder has a projection, and its U-Net takes layers as they are."""
    projected = component == "text_encoder_2"
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    model = kind.from_pretrained(folder, subfolder=component, torch_dtype=torch.float32).eval()
    out = model(ids, output_hidden_states=True)
    found = {"last_hidden_state": out.last_hidden_state}
    if projected:
        return found | {"text_embeds": out.text_embeds, "clip_skip_2": out.hidden_states[-2]}
    return found | {"pooler_output": out.pooler_output}
