"""Components of a diffusers folder run by torch in float32: what our graphs are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from sdlite.types import Array


@torch.no_grad()
def references(
    folder: Path, component: str, inputs: Mapping[str, Array], threads: int
) -> dict[str, Array]:
    """Outputs of one component by the names our graphs use; the model is freed afterwards."""
    torch.set_num_threads(threads)
    given = [torch.from_numpy(value) for value in inputs.values()]
    if component == "text_encoder":
        text = CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", torch_dtype=torch.float32
        ).eval()
        out = text(given[0], output_hidden_states=True)
        found = {"last_hidden_state": out.last_hidden_state, "pooler_output": out.pooler_output}
        for skip in range(2, text.config.num_hidden_layers + 1):
            state = text.final_layer_norm(out.hidden_states[-skip])
            found[f"clip_skip_{skip}"] = state
    elif component == "unet":
        unet = UNet2DConditionModel.from_pretrained(
            folder, subfolder="unet", torch_dtype=torch.float32
        ).eval()
        found = {"out_sample": unet(*given).sample}
    else:
        vae = AutoencoderKL.from_pretrained(
            folder, subfolder="vae", torch_dtype=torch.float32
        ).eval()
        if component == "vae_decoder":
            found = {"sample": vae.decode(given[0]).sample}
        else:
            found = {"latent_parameters": vae.encode(given[0]).latent_dist.parameters}
    return {name: value.numpy() for name, value in found.items()}
