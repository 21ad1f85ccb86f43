"""The text encoder of CLIP (Radford et al. 2021), weights named as transformers names them."""

from __future__ import annotations

from sdlite_export.configs import ClipTextConfig
from sdlite_export.ops import Ops, Value


def text_encoder(ops: Ops, config: ClipTextConfig, embeddings: bool = False) -> None:
    """Build the encoder.

    Inputs: ``input_ids`` int64 (batch, tokens); with ``embeddings`` also ``inputs_embeds``
    (batch, tokens, width), token embeddings before positions are added, which then replace the
    table (the ids still place the pooled output). Outputs: ``last_hidden_state`` (batch, tokens,
    width), after the final norm, and ``pooler_output`` (batch, width); ``clip_skip_2`` and so on
    are the states of the second last layer and those before it, after the same norm. Without
    ``norm_skipped`` they are as the layers give them, and ``clip_skip_1`` is there too. With a
    projection ``text_embeds`` (batch, projection).
    """
    width = config.hidden_size
    ids = ops.input("input_ids", ("batch", "tokens"), "int64")
    if embeddings:
        x = ops.input("inputs_embeds", ("batch", "tokens", width))
    else:
        x = ops.embedding(ids, "text_model.embeddings.token_embedding", config.vocab_size, width)
    x = ops.add_positions(x, "text_model.embeddings.position_embedding", config.positions)
    states = []
    for index in range(config.layers):
        x = _layer(ops, config, x, f"text_model.encoder.layers.{index}")
        states.append(x)
        ops.cut()
    x = ops.layer_norm(x, "text_model.final_layer_norm", config.eps)
    ops.output("last_hidden_state", x)
    # A norm of each costs nothing beside the layers, and one graph serves every clip skip.
    for skip in range(2 if config.norm_skipped else 1, config.layers + 1):
        state = states[-skip]
        if config.norm_skipped:
            state = ops.layer_norm(state, "text_model.final_layer_norm", config.eps)
        ops.output(f"clip_skip_{skip}", state)
    pooled = ops.at_first(x, ids, config.eos)
    ops.output("pooler_output", pooled)
    if config.projection is not None:
        ops.output("text_embeds", ops.linear(pooled, "text_projection", config.projection, False))


def _layer(ops: Ops, config: ClipTextConfig, x: Value, name: str) -> Value:
    y = ops.layer_norm(x, f"{name}.layer_norm1", config.eps)
    q, k, v = (ops.linear(y, f"{name}.self_attn.{part}_proj", config.hidden_size) for part in "qkv")
    y = ops.attention(q, k, v, config.heads, causal=True)
    x = ops.add(x, ops.linear(y, f"{name}.self_attn.out_proj", config.hidden_size))
    y = ops.layer_norm(x, f"{name}.layer_norm2", config.eps)
    y = ops.linear(y, f"{name}.mlp.fc1", config.intermediate_size)
    y = ops.quick_gelu(y) if config.activation == "quick_gelu" else ops.gelu(y)
    return ops.add(x, ops.linear(y, f"{name}.mlp.fc2", config.hidden_size))
