"""The picture encoder of CLIP (Radford et al. 2021), and the safety checker built on it.

Weights are named as transformers and diffusers name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sdlite_export.configs import ClipVisionConfig, SafetyConfig
from sdlite_export.ops import Ops, Value

ENCODER = "vision_model"
"""Begins the names of an encoder's tensors."""


class VisionOps(Ops, Protocol):
    """What an emitter that writes picture encoders offers besides."""

    def patches(self, x: Value, name: str, channels: int, size: int) -> Value:
        """Square patches of a feature map to tokens: a convolution without bias."""
        ...

    def with_class_token(self, x: Value, key: str) -> Value:
        """Tokens with a learned one before them."""
        ...

    def first_token(self, x: Value) -> Value:
        """``(batch, tokens, channels)`` to ``(batch, channels)``: the first token."""
        ...

    def cosines(self, x: Value, key: str, count: int) -> Value:
        """Cosines between vectors ``(batch, channels)`` and ``count`` learned ones."""
        ...

    def minus(self, x: Value, key: str) -> Value:
        """``(batch, n)`` less a learned vector ``(n,)``."""
        ...

    def learned_tokens(self, key: str, shape: tuple[int, int], like: Value) -> Value:
        """Learned tokens ``(n, channels)``, stored ``(1, n, channels)``, for each item of
        ``like``."""
        ...

    def as_tokens(self, x: Value, tokens: int) -> Value:
        """``(batch, tokens x channels)`` to ``(batch, tokens, channels)``."""
        ...

    def join_tokens(self, a: Value, b: Value) -> Value:
        """Two sequences of tokens of the same width, one after the other."""
        ...

    def halves(self, x: Value) -> tuple[Value, Value]:
        """The first and the second half of the channels of tokens."""
        ...

    def beside(self, values: Sequence[Value]) -> Value:
        """Sequences of as many tokens, their channels side by side."""
        ...


def clip_vision(ops: VisionOps, config: ClipVisionConfig, prefix: str = ENCODER) -> Value:
    """Build the encoder on an input ``pixel_values`` (batch, 3, size, size), normalised.

    Returns the pooled vector ``(batch, projection)``: the class token after the last layer,
    normalised and projected.
    """
    return _pooled(ops, config, _states(ops, config, prefix)[-1], prefix)


def image_encoder(ops: VisionOps, config: ClipVisionConfig) -> None:
    """Build the encoder as IP-Adapters use it, on the input of ``clip_vision``.

    Outputs: ``image_embeds`` (batch, projection), the pooled vector, and ``hidden_states`` (batch,
    tokens, hidden_size), those of the second last layer, not normalised. Cuts are allowed after
    every layer.
    """
    *_, before, last = _states(ops, config, ENCODER)
    ops.output("hidden_states", before)
    ops.output("image_embeds", _pooled(ops, config, last, ENCODER))


def _states(ops: VisionOps, config: ClipVisionConfig, prefix: str) -> list[Value]:
    """Tokens ``(batch, tokens, hidden_size)`` before the first layer and after each."""
    width = config.hidden_size
    shape = ("batch", 3, config.image_size, config.image_size)
    x = ops.input("pixel_values", shape)
    x = ops.patches(x, f"{prefix}.embeddings.patch_embedding", width, config.patch_size)
    x = ops.with_class_token(x, f"{prefix}.embeddings.class_embedding")
    x = ops.add_positions(x, f"{prefix}.embeddings.position_embedding", config.tokens)
    states = [ops.layer_norm(x, f"{prefix}.pre_layrnorm", config.eps)]
    for index in range(config.layers):
        states.append(_layer(ops, config, states[-1], f"{prefix}.encoder.layers.{index}"))
        ops.cut()
    return states


def _pooled(ops: VisionOps, config: ClipVisionConfig, x: Value, prefix: str) -> Value:
    x = ops.layer_norm(ops.first_token(x), f"{prefix}.post_layernorm", config.eps)
    return ops.linear(x, "visual_projection", config.projection, bias=False)


def safety_checker(ops: VisionOps, config: SafetyConfig) -> None:
    """Build Stable Diffusion's safety checker (CompVis).

    Outputs: ``special`` and ``concepts`` (batch, n): how much nearer the picture is to each
    concept than its threshold allows, as a difference of cosines.
    """
    pooled = clip_vision(ops, config.vision, "vision_model.vision_model")
    special = ops.cosines(pooled, "special_care_embeds", config.special)
    ops.output("special", ops.minus(special, "special_care_embeds_weights"))
    concepts = ops.cosines(pooled, "concept_embeds", config.concepts)
    ops.output("concepts", ops.minus(concepts, "concept_embeds_weights"))


def _layer(ops: VisionOps, config: ClipVisionConfig, x: Value, name: str) -> Value:
    y = ops.layer_norm(x, f"{name}.layer_norm1", config.eps)
    q, k, v = (ops.linear(y, f"{name}.self_attn.{part}_proj", config.hidden_size) for part in "qkv")
    y = ops.attention(q, k, v, config.heads)
    x = ops.add(x, ops.linear(y, f"{name}.self_attn.out_proj", config.hidden_size))
    y = ops.layer_norm(x, f"{name}.layer_norm2", config.eps)
    y = ops.linear(y, f"{name}.mlp.fc1", config.intermediate_size)
    y = ops.quick_gelu(y) if config.activation == "quick_gelu" else ops.gelu(y)
    return ops.add(x, ops.linear(y, f"{name}.mlp.fc2", config.hidden_size))
