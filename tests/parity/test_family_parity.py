"""Text encoders and U-Nets of every family against transformers and diffusers, in float32.

What the families share with SD1 (the autoencoder, odd sizes of everything) is compared in
``test_component_parity``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from sdlite_export.export import export_package
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdlite.package import Package
from tests.families import FAMILIES
from tests.parity.test_component_parity import Pair, close
from tests.tiny import make_tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    tiny = FAMILIES[request.param]
    source = make_tiny_checkpoint(folder / "source", tiny)
    export_package(source, folder / "package", precision="fp32")
    return tiny, Pair(source, Package.open(folder / "package"))


@torch.no_grad()
def test_text_encoders(made):
    tiny, pair = made
    tokenizers = {item.name: item for item in pair.package.manifest.tokenizers}
    rng = np.random.default_rng(0)
    for component, config in tiny.texts.items():
        kind = CLIPTextModel if config.projection is None else CLIPTextModelWithProjection
        model = kind.from_pretrained(pair.folder, subfolder=component, torch_dtype=torch.float32)
        model.eval()
        tokenizer = tokenizers[component.replace("text_encoder", "tokenizer")]
        ids = rng.integers(0, tokenizer.bos, (2, tokenizer.length))
        ids[:, 0], ids[:, 6] = tokenizer.bos, tokenizer.eos
        ids[:, 7:] = tokenizer.pad
        expected = model(torch.from_numpy(ids), output_hidden_states=True)
        with pair.ours(component, "plain") as encode:
            found = encode({"input_ids": ids})
        close(found["last_hidden_state"], expected.last_hidden_state)
        if config.projection is not None:
            close(found["text_embeds"], expected.text_embeds)
        inner = model.text_model if hasattr(model, "text_model") else model
        for skip in range(1 if not config.norm_skipped else 2, config.layers + 1):
            state = expected.hidden_states[-skip]
            if config.norm_skipped:
                state = inner.final_layer_norm(state)
            close(found[f"clip_skip_{skip}"], state)


@pytest.mark.parametrize("variant", ["plain", "fused", "segment"])
@torch.no_grad()
def test_unet(made, variant):
    tiny, pair = made
    model = UNet2DConditionModel.from_pretrained(
        pair.folder, subfolder="unet", torch_dtype=torch.float32
    )
    model.eval()
    rng = np.random.default_rng(1)
    config = tiny.unet
    with pair.ours("unet", variant) as predict:
        for batch, rows, columns in ((1, 8, 8), (2, 5, 9)):

            def normal(*shape):
                return rng.standard_normal(shape, dtype=np.float32)

            inputs = {
                "sample": normal(batch, config.in_channels, rows, columns),
                "timestep": rng.uniform(0, 999, batch).astype(np.float32),
                "encoder_hidden_states": normal(batch, 77, config.cross_dim),
            }
            added, more = {}, {}
            if config.label_dim is not None:
                pooled = tiny.text_2.projection
                sizes = (config.label_dim - pooled) // config.size_dim
                added = {
                    "text_embeds": normal(batch, pooled),
                    "time_ids": rng.uniform(0, 1024, (batch, sizes)).astype(np.float32),
                }
            if config.guidance_dim is not None:
                more = {"timestep_cond": normal(batch, config.guidance_dim)}
            if config.class_embeds is not None:
                levels = rng.integers(0, config.class_embeds, batch)
                more = {"class_labels": levels}
            expected = model(
                *(torch.from_numpy(value) for value in inputs.values()),
                added_cond_kwargs={name: torch.from_numpy(value) for name, value in added.items()},
                **{name: torch.from_numpy(value) for name, value in more.items()},
            ).sample
            close(predict(inputs | added | more)["out_sample"], expected)
