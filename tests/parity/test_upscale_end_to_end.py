"""The x4 upscaler: our package against diffusers' pipeline, both from the same tiny checkpoint.

Nothing is injected but the schedule: both draw the small picture's noise first and the latents'
second from the generator of the seed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionUpscalePipeline
from PIL import Image
from sdlite_export.export import export_package

import sdlite
from sdlite.package import Package
from sdlite.sampling import NoiseLevels, sigmas_for
from tests.families import UPSCALE
from tests.parity.injected import inject_schedule
from tests.parity.test_component_parity import SIZES, Pair, close
from tests.tiny import make_tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LEAST_DB = 80.0
STEPS, SEED, SIDES = 8, 7, (24, 16)
PROMPT, NEGATIVE = "a red circle on blue", "square"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upscale")
    source = make_tiny_checkpoint(folder / "source", UPSCALE)
    export_package(source, folder / "package", precision="fp32")
    return Pair(source, Package.open(folder / "package"))


@pytest.mark.parametrize("variant", ["plain", "fused"])
@torch.no_grad()
def test_its_autoencoder(pair, variant):
    model = AutoencoderKL.from_pretrained(pair.folder, subfolder="vae", torch_dtype=torch.float32)
    model.eval()
    rng = np.random.default_rng(2)
    with pair.ours("vae_decoder", variant) as decode, pair.ours("vae_encoder", variant) as encode:
        for batch, rows, columns in SIZES:
            latents = rng.standard_normal((batch, 4, rows, columns), dtype=np.float32)
            expected = model.decode(torch.from_numpy(latents)).sample
            assert expected.shape[2:] == (4 * rows, 4 * columns)
            close(decode({"latent_sample": latents})["sample"], expected)
            picture = rng.uniform(-1, 1, expected.shape).astype(np.float32)
            moments = model.encode(torch.from_numpy(picture)).latent_dist.parameters
            close(encode({"sample": picture})["latent_parameters"], moments)


def theirs(folder, picture, level, guidance, negative, sigmas, times):
    pipe = StableDiffusionUpscalePipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    inject_schedule(pipe.scheduler, sigmas, times)
    return pipe(
        PROMPT,
        picture,
        negative_prompt=negative or None,
        num_inference_steps=len(times),
        guidance_scale=guidance,
        noise_level=level,
        generator=torch.Generator("cpu").manual_seed(SEED),
        output_type="np",
    ).images[0]


@pytest.mark.parametrize(
    ("level", "guidance", "negative"),
    [(20, 9.0, NEGATIVE), (0, 5.0, ""), (350, 5.0, NEGATIVE), (100, 1.0, "")],
)
def test_the_picture_is_diffusers_picture(pair, tmp_path, level, guidance, negative):
    rng = np.random.default_rng(3)
    width, height = SIDES
    picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    with sdlite.load(pair.package.root) as ours:
        levels = NoiseLevels.from_table(ours.package.manifest.noise)
        result = ours.generate(
            PROMPT,
            negative_prompt=negative,
            seed=SEED,
            steps=STEPS,
            guidance=guidance,
            sampler="Euler",
            schedule="SGM Uniform",
            edit=sdlite.Edit(picture, noise_level=level),
        )
    sigmas = sigmas_for("SGM Uniform", levels, STEPS, "Euler")
    times = np.array([levels.sigma_to_timestep(float(s)) for s in sigmas[:-1]], np.float32)
    reference = theirs(pair.folder, picture, level, guidance, negative, sigmas, times)
    rounded = (reference * 255).round()
    assert rounded.shape == (4 * height, 4 * width, 3)
    assert rounded.std() > 5, "nothing was drawn, so nothing was compared"
    error = float(np.mean((rounded - np.asarray(result.images[0], np.float64)) ** 2))
    decibels = 10 * np.log10(255.0**2 / max(error, 1e-20))
    print(f"level {level}, guidance {guidance}: {decibels:.1f} dB")
    if decibels < LEAST_DB:
        result.images[0].save(tmp_path / "ours.png")
        Image.fromarray(rounded.astype(np.uint8)).save(tmp_path / "reference.png")
    assert decibels >= LEAST_DB, f"{decibels:.1f} dB < {LEAST_DB} dB; pictures in {tmp_path}"
