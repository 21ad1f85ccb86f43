"""Architectures ask for exactly the tensors that checkpoints of their numbers have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sdlite_export.architectures.clip_text import text_encoder
from sdlite_export.architectures.unet import unet
from sdlite_export.architectures.vae import vae_decoder, vae_encoder
from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.targets import FUSED, PLAIN, Target
from sdlite_export.ops import Value
from sdlite_export.source.layout import text_slots, unet_slots, vae_slots

from tests.tiny import TEXT, UNET, VAE

SD15_UNET = UnetConfig(
    in_channels=4,
    out_channels=4,
    block_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_attention=(True, True, True, False),
    up_attention=(False, True, True, True),
    heads=(8, 8, 8, 8),
    transformer_depth=(1, 1, 1, 1),
    cross_dim=768,
)
ONE_LEVEL = replace(
    UNET,
    block_channels=(12,),
    down_attention=(True,),
    up_attention=(True,),
    heads=(3,),
    transformer_depth=(1,),
)
SD15_VAE = VaeConfig(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_channels=(128, 256, 512, 512),
    layers_per_block=2,
)
SD15_TEXT = ClipTextConfig(49408, 768, 3072, 12, 12)


def shapes(ops: OnnxOps) -> dict[str, tuple[int, ...]]:
    return {name: need.shape for name, need in ops.finish().weights.items()}


@pytest.mark.parametrize("target", [PLAIN, FUSED])
@pytest.mark.parametrize(
    "config",
    [
        UNET,
        SD15_UNET,
        replace(UNET, linear_projection=True, transformer_depth=(2, 3)),
        replace(
            UNET, block_channels=(12,), down_attention=(True,), up_attention=(True,), heads=(3,)
        ),
    ],
)
def test_unet(target: Target, config: UnetConfig) -> None:
    ops = OnnxOps(target, "fp16")
    unet(ops, config)
    assert shapes(ops) == {slot.name: slot.shape for slot in unet_slots(config)}


@pytest.mark.parametrize(
    "config",
    [
        VAE,
        SD15_VAE,
        replace(VAE, mid_attention=False, quant_conv=False, post_quant_conv=False),
        replace(VAE, layers_per_block=3, block_channels=(4, 12)),
    ],
)
def test_vae(config: VaeConfig) -> None:
    found: dict[str, tuple[int, ...]] = {}
    for build in (vae_encoder, vae_decoder):
        ops = OnnxOps(FUSED, "fp16")
        build(ops, config)
        part = shapes(ops)
        assert not set(part) & set(found)
        found |= part
    assert found == {slot.name: slot.shape for slot in vae_slots(config)}


@pytest.mark.parametrize("embeddings", [False, True])
def test_text_encoder(embeddings: bool) -> None:
    config = replace(TEXT, vocab_size=100, eos=99)
    for numbers in (config, SD15_TEXT):
        ops = OnnxOps(PLAIN, "fp16")
        text_encoder(ops, numbers, embeddings)
        expected = {slot.name: slot.shape for slot in text_slots(numbers)}
        if embeddings:
            del expected["text_model.embeddings.token_embedding.weight"]
        assert shapes(ops) == expected


def test_projected_text_encoder() -> None:
    config = replace(TEXT, vocab_size=100, eos=99, projection=24)
    ops = OnnxOps(PLAIN, "fp16")
    text_encoder(ops, config)
    graph = ops.finish()
    assert graph.weights["text_projection.weight"].shape == (24, 16)
    assert [value.name for value in graph.outputs] == [
        "last_hidden_state",
        *(f"clip_skip_{skip}" for skip in range(2, config.layers + 1)),
        "pooler_output",
        "text_embeds",
    ]


def test_sd15_is_cut_into_small_pieces() -> None:
    ops = OnnxOps(FUSED, "fp16")
    unet(ops, SD15_UNET)
    assert 60 <= len(ops.finish().segments()) <= 100


def test_a_weight_has_one_layout() -> None:
    ops = OnnxOps(PLAIN, "fp16")
    x = ops.input("x", ("batch", "tokens", 4))
    ops.linear(x, "a", 4)
    with pytest.raises(ValueError, match=r"a\.weight is used as"):
        ops.embedding(ops.input("ids", ("batch",), "int64"), "a", 4, 4)


def test_channels_must_be_known() -> None:
    with pytest.raises(TypeError, match="no fixed number of channels"):
        _ = Value("x", ("batch", "tokens")).channels
