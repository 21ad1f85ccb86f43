"""What prompts become: our package on ONNX Runtime against transformers and diffusers.

Weights, chunks and clip skip are computed a second time here, with torch and transformers'
tokenizer, from A1111's rules; guidance rescale is diffusers' own.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from sdlite_export.export import export_package

import sdlite
from sdlite.engine import LoadOptions
from sdlite.package import Package
from sdlite.ports import TextEncoderPort
from sdlite.registry import devices, get
from sdlite.sampling import denoiser
from sdlite.text.conditioning import condition
from sdlite.text.encoder import Encoder
from sdlite.text.tokenizer import ClipTokenizer
from sdlite.types import Cond, StepConds
from tests.parity.test_sampler_parity import LEVELS, MODEL, NEGATIVE, PROMPT, pipe

__all__ = ["pipe"]

LIMIT = 1e-4
"""Of the reference's standard deviation."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts") / "package"
    export_package(MODEL, folder, precision="fp32")
    return Package.open(folder)


@pytest.fixture(scope="module")
def context(package):
    """``(prompt, emphasis, clip_skip) -> features`` of our side, ``(tokens, width)``."""
    runtime = get("onnxruntime")
    device = devices("onnxruntime")[0]
    (artifact,) = package.find("text_encoder", "plain")
    session = runtime.load(artifact, package.root, device, LoadOptions())
    port = TextEncoderPort(session)
    tokenizer = ClipTokenizer.from_package(package)

    def encode(prompt, emphasis="Original", clip_skip=1):
        encoder = Encoder(tokenizer, lambda ids: port.encode(ids, clip_skip=clip_skip))
        made = condition([encoder], prompt, "", guided=False, steps=10, emphasis=emphasis)
        ((cond, _),) = made.at(0).parts
        return cond.context[0]

    yield encode
    session.close()


def deviation(found, reference):
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / reference.std())


@torch.no_grad()
def theirs(pipe, chunks, clip_skip=1):
    """Features of chunks of (text, weight) as A1111 makes them: scaled, then the mean restored."""
    found = []
    for spans in chunks:
        ids, weights = [], []
        for text, weight in spans:
            tokens = pipe.tokenizer(text, add_special_tokens=False).input_ids
            ids += tokens
            weights += [weight] * len(tokens)
        eos = pipe.tokenizer.eos_token_id
        padding = 75 - len(ids)
        ids = [pipe.tokenizer.bos_token_id, *ids, *[eos] * padding, eos]
        weights = torch.tensor([1.0, *weights, *[1.0] * padding, 1.0])
        out = pipe.text_encoder(torch.tensor([ids]), output_hidden_states=True)
        z = out.last_hidden_state
        if clip_skip > 1:
            z = pipe.text_encoder.final_layer_norm(out.hidden_states[-clip_skip])
        mean = z.mean()
        z = z * weights[None, :, None]
        found.append(z * (mean / z.mean()))
    return torch.cat(found, dim=1)[0].numpy()


@torch.no_grad()
def test_a_plain_prompt(pipe, context):
    expected = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0][0].numpy()
    assert deviation(context(PROMPT), expected) < LIMIT
    assert deviation(context(PROMPT, emphasis="compel"), expected) < LIMIT


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        (
            "a (red:1.5) circle on a [blue] background",
            [[("a", 1), ("red", 1.5), ("circle on a", 1), ("blue", 1 / 1.1), ("background", 1)]],
        ),
        (
            "a ((large (red:1.3)) star, outline",
            [[("a", 1), ("large", 1.1**2), ("red", 1.3 * 1.1**2), ("star, outline", 1.1)]],
        ),
        (
            "a (red:0.4) circle BREAK (a blue background:1.2)",
            [[("a", 1), ("red", 0.4), ("circle", 1)], [("a blue background", 1.2)]],
        ),
        ("red " * 100, [[("red " * 75, 1)], [("red " * 25, 1)]]),
        (
            "red " * 70 + ", " + "(blue:1.3) " * 10,
            [[("red " * 70 + ",", 1)], [("blue " * 10, 1.3)]],
        ),
        ("", [[]]),
    ],
)
@pytest.mark.parametrize("clip_skip", [1, 2, 4])
def test_weighted_and_long_prompts(pipe, context, prompt, chunks, clip_skip):
    expected = theirs(pipe, chunks, clip_skip)
    assert deviation(context(prompt, clip_skip=clip_skip), expected) < LIMIT


@torch.no_grad()
def test_clip_skip_as_diffusers_counts_it(pipe, context, monkeypatch):
    """diffusers' ``clip_skip=1`` is A1111's ``Clip skip: 2``."""
    # diffusers 0.42 looks for the final norm where transformers 5 no longer keeps it.
    encoder = type(pipe.text_encoder)
    monkeypatch.setattr(encoder, "text_model", property(lambda self: self), raising=False)
    for skip in (1, 2, 3):
        expected = pipe.encode_prompt(PROMPT, "cpu", 1, False, clip_skip=skip)[0][0].numpy()
        assert deviation(context(PROMPT, clip_skip=skip + 1), expected) < LIMIT


@torch.no_grad()
def test_guidance_rescale_as_in_diffusers(pipe, context):
    cond, uncond = (torch.from_numpy(context(text))[None] for text in (PROMPT, NEGATIVE))
    x = np.random.default_rng(0).standard_normal((1, 4, 16, 16)).astype(np.float32) * 5
    sigma = 5.0
    timestep = LEVELS.sigma_to_timestep(sigma)
    scaled = torch.from_numpy(x / np.float32(np.hypot(sigma, 1.0)))
    outs = [pipe.unet(scaled, timestep, each).sample for each in (uncond, cond)]
    guided = outs[0] + 7.5 * (outs[1] - outs[0])
    noise = rescale_noise_cfg(guided, outs[1], guidance_rescale=0.7).numpy()
    told = StepConds(((Cond(cond.numpy()), 1.0),), Cond(uncond.numpy()))

    def predict(x, times, each):
        given = (torch.from_numpy(part) for part in (x, times, each.context))
        return pipe.unet(*given).sample.numpy()

    model = denoiser(predict, LEVELS, "epsilon", lambda _: told, 7.5, rescale=0.7)
    assert deviation(model(x, sigma).x0, x - sigma * noise) < LIMIT


def test_a_rescaled_picture_has_less_contrast(package):
    with sdlite.load(package.root) as opened:
        request = sdlite.Request(PROMPT, seed=1, steps=8, guidance=12.0)
        plain, rescaled = (
            np.asarray(
                opened.generate(
                    sdlite.Request(**{**vars(request), "guidance_rescale": share})
                ).images[0],
                np.float64,
            )
            for share in (0.0, 1.0)
        )
    assert rescaled.std() < plain.std()
