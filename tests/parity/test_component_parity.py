"""Each component against diffusers and transformers: float32, odd sizes, several architectures.

Errors are in standard deviations of the reference's output.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from sdlite_export.export import export_package
from sdlite_export.verify import deviation
from transformers import CLIPTextModel

from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions
from sdlite.package import Package
from tests.parity.test_sampler_parity import MODEL
from tests.tiny import TEXT, UNET, VAE, Tiny, make_tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

LIMIT = 1e-4
SIZES = ((1, 8, 8), (2, 5, 9), (1, 13, 7))
"""Batch, height and width of latents."""

ODD_WIDTHS = Tiny(
    text=replace(TEXT, hidden_size=24, intermediate_size=40, layers=3, heads=3, activation="gelu"),
    unet=replace(
        UNET,
        block_channels=(12, 20, 36),
        layers_per_block=2,
        down_attention=(False, True, True),
        up_attention=(True, True, False),
        heads=(3, 5, 6),
        transformer_depth=(1, 1, 2),
        cross_dim=24,
    ),
    vae=replace(VAE, block_channels=(6, 9, 12, 15), layers_per_block=2, norm_groups=3),
    seed=1,
)
LINEAR = Tiny(
    text=replace(TEXT, layers=1, positions=16),
    unet=replace(
        UNET,
        layers_per_block=3,
        down_attention=(True, True),
        up_attention=(True, True),
        linear_projection=True,
        flip_sin_to_cos=False,
        freq_shift=1.0,
        norm_eps=1e-6,
    ),
    vae=replace(VAE, mid_attention=False, quant_conv=False, post_quant_conv=False),
    seed=2,
)
ALTERNATING = Tiny(
    unet=replace(
        UNET,
        block_channels=(10, 15, 20, 25),
        down_attention=(True, False, True, False),
        up_attention=(False, True, False, True),
        heads=(2, 3, 1, 5),
        transformer_depth=(2, 1, 1, 1),
        norm_groups=5,
    ),
    vae=replace(VAE, block_channels=(4, 8, 8), norm_groups=4, quant_conv=False),
    seed=3,
)
CONFIGS = {"odd widths": ODD_WIDTHS, "linear": LINEAR, "alternating": ALTERNATING, "shapes": None}


@dataclass(frozen=True)
class Pair:
    """A checkpoint and the float32 package made of it."""

    folder: Path
    package: Package

    @contextmanager
    def ours(self, component, variant):
        """The component as a callable that takes and gives arrays by name."""
        runtime, device = registry.get("onnxruntime"), registry.probe("onnxruntime")[0]
        artifacts = self.package.find(component, variant)
        options = LoadOptions(threads=2)
        session = open_chain(runtime, artifacts, self.package.root, device, options)
        try:
            yield session.run
        finally:
            session.close()


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    tiny = CONFIGS[request.param]
    source = MODEL if tiny is None else make_tiny_checkpoint(folder / "source", tiny)
    export_package(source, folder / "package", precision="fp32")
    return Pair(source, Package.open(folder / "package"))


def close(result, reference):
    assert result.shape == tuple(reference.shape)
    assert deviation(result, reference.numpy()) <= LIMIT


@torch.no_grad()
def test_text_encoder(pair):
    model = CLIPTextModel.from_pretrained(
        pair.folder, subfolder="text_encoder", torch_dtype=torch.float32
    )
    model.eval()
    tokenizer = pair.package.manifest.tokenizers[0]
    rng = np.random.default_rng(0)
    with pair.ours("text_encoder", "plain") as encode:
        for tokens in (tokenizer.length, 9):
            ids = rng.integers(0, tokenizer.bos, (2, tokens))
            ids[:, 0] = tokenizer.bos
            ids[:, 6:] = tokenizer.eos
            expected = model(torch.from_numpy(ids), output_hidden_states=True)
            found = encode({"input_ids": ids})
            close(found["last_hidden_state"], expected.last_hidden_state)
            for skip in range(2, model.config.num_hidden_layers + 1):
                state = model.final_layer_norm(expected.hidden_states[-skip])
                close(found[f"clip_skip_{skip}"], state)
            close(found["pooler_output"], expected.pooler_output)


@pytest.mark.parametrize("variant", ["plain", "fused", "segment"])
@torch.no_grad()
def test_unet(pair, variant):
    model = UNet2DConditionModel.from_pretrained(
        pair.folder, subfolder="unet", torch_dtype=torch.float32
    )
    model.eval()
    rng = np.random.default_rng(1)
    width = model.config.cross_attention_dim
    with pair.ours("unet", variant) as predict:
        for batch, rows, columns in SIZES:
            inputs = {
                "sample": rng.standard_normal((batch, 4, rows, columns), dtype=np.float32),
                "timestep": rng.uniform(0, 999, batch).astype(np.float32),
                "encoder_hidden_states": rng.standard_normal((batch, 77, width), dtype=np.float32),
            }
            expected = model(*(torch.from_numpy(value) for value in inputs.values())).sample
            close(predict(inputs)["out_sample"], expected)


@pytest.mark.parametrize("variant", ["plain", "fused", "segment"])
@torch.no_grad()
def test_vae_decoder(pair, variant):
    model = AutoencoderKL.from_pretrained(pair.folder, subfolder="vae", torch_dtype=torch.float32)
    model.eval()
    rng = np.random.default_rng(2)
    with pair.ours("vae_decoder", variant) as decode:
        for batch, rows, columns in SIZES:
            latents = rng.standard_normal((batch, 4, rows, columns), dtype=np.float32)
            expected = model.decode(torch.from_numpy(latents)).sample
            found = decode({"latent_sample": latents})
            close(found["sample"], expected)


@pytest.mark.parametrize("variant", ["plain", "fused"])
@torch.no_grad()
def test_vae_encoder(pair, variant):
    model = AutoencoderKL.from_pretrained(pair.folder, subfolder="vae", torch_dtype=torch.float32)
    model.eval()
    rng = np.random.default_rng(3)
    factor = pair.package.manifest.latent.factor
    with pair.ours("vae_encoder", variant) as encode:
        for batch, rows, columns in SIZES:
            shape = (batch, 3, factor * rows, factor * columns)
            picture = rng.uniform(-1, 1, shape).astype(np.float32)
            expected = model.encode(torch.from_numpy(picture)).latent_dist.parameters
            found = encode({"sample": picture})
            close(found["latent_parameters"], expected)
