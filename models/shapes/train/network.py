"""The U-Net: its configuration and an attention that is fast to train on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from train_text import WIDTH

CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128, 144),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}


class PlainAttention:
    """Attention in three matrix products; the fused kernel's backward is several times slower."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The attention of `attn` over (batch, tokens, channels); no masks are used here."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, tokens, channels = hidden_states.shape
        heads, width, others = attn.heads, channels // attn.heads, source.shape[1]
        q = (attn.to_q(hidden_states) * attn.scale).view(batch, tokens, heads, width)
        k = attn.to_k(source).view(batch, others, heads, width)
        v = attn.to_v(source).view(batch, others, heads, width)
        q = q.transpose(1, 2).reshape(batch * heads, tokens, width)
        k = k.permute(0, 2, 3, 1).reshape(batch * heads, width, others)
        v = v.transpose(1, 2).reshape(batch * heads, others, width)
        out = torch.bmm(torch.softmax(torch.bmm(q, k), -1), v)
        out = out.view(batch, heads, tokens, width).transpose(1, 2)
        mixed: torch.Tensor = attn.to_out[0](out.reshape(batch, tokens, channels))
        return mixed


def unet() -> UNet2DConditionModel:
    """A fresh network with the seed the caller has set."""
    network = UNet2DConditionModel(**CONFIG)
    network.set_attn_processor(PlainAttention())
    return network


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's scaled-linear schedule, float64 (1000,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)
