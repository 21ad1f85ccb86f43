"""The IP-Adapter of Ye et al. 2023, named as its authors' files name it.

What it adds to a U-Net's cross-attention, ``Attention(q, tokens K, tokens V)``, needs nothing of
the U-Net but ``q``: keys and values of every layer are the same in all steps and are made here.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdlite_export.architectures.clip_vision import VisionOps
from sdlite_export.configs import IPAdapterConfig
from sdlite_export.ops import Value

KEYS, VALUES = "image_keys", "image_values"
"""What a U-Net takes of it: ``(batch, image_tokens, channels)``, those of all its cross-attentions
side by side in the order they run."""
EMBEDS, STATES = "image_embeds", "hidden_states"
"""What it takes of a picture encoder: the pooled vector, or the second last layer's states."""
PREFIX = "image_proj"
EPS = 1e-5


def ip_adapter(ops: VisionOps, config: IPAdapterConfig, order: Sequence[int]) -> None:
    """Build the network.

    Inputs: ``image_embeds`` (batch, width), or ``hidden_states`` (batch, states, width). Outputs:
    ``image_keys`` and ``image_values`` (batch, tokens, channels).

    Args:
        ops: the emitter.
        config: its numbers.
        order: places in ``config.crosses`` in the order the U-Net's cross-attentions run.
    """
    if config.kind == "plain":
        x = ops.input(EMBEDS, ("batch", config.width))
        x = ops.linear(x, f"{PREFIX}.proj", config.tokens * config.cross_dim)
        x = ops.layer_norm(ops.as_tokens(x, config.tokens), f"{PREFIX}.norm", EPS)
    elif config.kind == "full":
        x = ops.input(STATES, ("batch", "states", config.width))
        x = ops.gelu(ops.linear(x, f"{PREFIX}.proj.0", config.inner))
        x = ops.linear(x, f"{PREFIX}.proj.2", config.cross_dim)
        x = ops.layer_norm(x, f"{PREFIX}.proj.3", EPS)
    else:
        x = _resampled(ops, config)
    for name, part in ((KEYS, "to_k_ip"), (VALUES, "to_v_ip")):
        layers = [
            ops.linear(x, f"ip_adapter.{2 * place + 1}.{part}", config.crosses[place], bias=False)
            for place in order
        ]
        ops.output(name, ops.beside(layers))


def _resampled(ops: VisionOps, config: IPAdapterConfig) -> Value:
    """The perceiver resampler of Alayrac et al. 2022 (Flamingo): learned tokens that look at the
    states and at themselves."""
    states = ops.input(STATES, ("batch", "states", config.width))
    states = ops.linear(states, f"{PREFIX}.proj_in", config.inner)
    x = ops.learned_tokens(f"{PREFIX}.latents", (config.tokens, config.inner), states)
    for index in range(config.depth):
        name = f"{PREFIX}.layers.{index}.0"
        seen = ops.layer_norm(states, f"{name}.norm1", EPS)
        y = ops.layer_norm(x, f"{name}.norm2", EPS)
        width = 64 * config.heads
        q = ops.linear(y, f"{name}.to_q", width, bias=False)
        both = ops.linear(ops.join_tokens(seen, y), f"{name}.to_kv", 2 * width, bias=False)
        y = ops.attention(q, *ops.halves(both), config.heads)
        x = ops.add(x, ops.linear(y, f"{name}.to_out", config.inner, bias=False))
        name = f"{PREFIX}.layers.{index}.1"
        y = ops.linear(ops.layer_norm(x, f"{name}.0", EPS), f"{name}.1", config.feed, bias=False)
        x = ops.add(x, ops.linear(ops.gelu(y), f"{name}.3", config.inner, bias=False))
    x = ops.linear(x, f"{PREFIX}.proj_out", config.cross_dim)
    return ops.layer_norm(x, f"{PREFIX}.norm_out", EPS)
