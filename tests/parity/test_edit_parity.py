"""Edits against diffusers' pipelines on the shapes model: image to image, inpainting, upscaling.

Both sides start from the same picture, mask and seed, and nothing is injected: by diffusers' rules
an edit draws from the encoder's distribution first and the run's noise second, as diffusers does.
Its schedulers are aligned as ``test_sampler_parity`` says. Its inpainting puts the picture back
after each step, with the noise of the next level; ours puts it back in each estimate, as A1111
does. For samplers without fresh noise that is the same.
"""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
)
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpainting
from diffusers.pipelines.stable_diffusion_xl import (
    pipeline_stable_diffusion_xl_inpaint as xl_inpainting,
)
from PIL import Image, ImageDraw
from sdlite_export.export import export_package

import sdlite
from sdlite.edit.upscale import scale_latents
from sdlite.sampling import sigmas_for
from sdlite.types import Edit, Hires
from tests.families import FAMILIES
from tests.parity.test_sampler_parity import (
    BETAS,
    GUIDANCE,
    LEAST_DB,
    LEVELS,
    MODEL,
    SEED,
    STEPS,
)
from tests.tiny import make_tiny_checkpoint

PROMPT = "a green star on a blue background"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

SAMPLERS = {
    "Euler": EulerDiscreteScheduler,
    "Euler a": EulerAncestralDiscreteScheduler,
    "DPM++ 2M": DPMSolverMultistepScheduler,
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity") / "package"
    export_package(MODEL, folder, precision="fp32")
    with sdlite.load(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def theirs():
    torch.set_num_threads(1)
    loaded = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    return loaded.components


@pytest.fixture(scope="module")
def image():
    drawn = Image.new("RGB", (128, 128), (40, 80, 210))
    ImageDraw.Draw(drawn).ellipse((30, 40, 80, 90), fill=(220, 40, 40))
    ImageDraw.Draw(drawn).rectangle((90, 20, 116, 46), fill=(240, 220, 60))
    return drawn


@pytest.fixture(scope="module")
def mask():
    drawn = Image.new("L", (128, 128), 0)
    drawn.paste(255, (24, 32, 88, 96))
    return drawn


def diffusers_picture(kind, components, name, strength, **inputs):
    scheduler = SAMPLERS[name](**BETAS)
    sigmas = sigmas_for(None, LEVELS, STEPS, name)
    times = [LEVELS.sigma_to_timestep(float(sigma)) for sigma in sigmas[:-1]]
    usual = scheduler.set_timesteps

    def set_timesteps(*args, **kwargs):
        usual(*args, **kwargs)
        scheduler.sigmas = torch.from_numpy(sigmas.copy())
        scheduler.timesteps = torch.tensor(times, dtype=torch.float32)

    scheduler.set_timesteps = set_timesteps
    pipe = kind(**(components | {"scheduler": scheduler}))
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        PROMPT,
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(SEED),
        output_type="np",
        **inputs,
    ).images[0]


def check(reference, result, folder):
    rounded = (reference * 255).round()
    assert rounded.std() > 12, "nothing was drawn, so nothing was compared"
    error = float(np.mean((rounded - np.asarray(result.images[0], np.float64)) ** 2))
    decibels = 10 * np.log10(255.0**2 / max(error, 1e-20))
    print(f"{decibels:.1f} dB")
    if decibels < LEAST_DB:
        result.images[0].save(folder / "ours.png")
        Image.fromarray(rounded.astype(np.uint8)).save(folder / "reference.png")
    assert decibels >= LEAST_DB, f"{decibels:.1f} dB < {LEAST_DB} dB; pictures in {folder}"


def draw(pipe, edit, name):
    return pipe.generate(PROMPT, edit=edit, seed=SEED, steps=STEPS, guidance=GUIDANCE, sampler=name)


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_image_to_image(ours, theirs, image, tmp_path, name, strength):
    reference = diffusers_picture(
        StableDiffusionImg2ImgPipeline, theirs, name, strength, image=image
    )
    check(reference, draw(ours, Edit(image, strength=strength, rules="diffusers"), name), tmp_path)


@pytest.mark.parametrize("strength", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M"])
def test_inpainting_with_any_model(ours, theirs, image, mask, tmp_path, name, strength):
    reference = diffusers_picture(
        StableDiffusionInpaintPipeline,
        theirs,
        name,
        strength,
        image=image,
        mask_image=mask,
        height=128,
        width=128,
    )
    edit = Edit(image, mask=mask, strength=strength, mask_blur=0, rules="diffusers", paste=False)
    check(reference, draw(ours, edit, name), tmp_path)


INPAINTING = {
    "inpaint": (StableDiffusionInpaintPipeline, inpainting),
    "xl inpaint": (StableDiffusionXLInpaintPipeline, xl_inpainting),
}


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("family", INPAINTING)
def test_inpainting_models(theirs, image, mask, tmp_path, family, strength):
    """A tiny random model with a U-Net of nine channels; the pictures are the same noise."""
    source = make_tiny_checkpoint(tmp_path / "source", FAMILIES[family])
    export_package(source, tmp_path / "package", precision="fp32")
    kind, module = INPAINTING[family]
    pipe = kind.from_pretrained(source, torch_dtype=torch.float32)
    # The picture is drawn from the encoder's distribution, the masked picture is its mean here.
    usual, encoded = module.retrieve_latents, []

    def retrieve(output, generator=None, **_):
        encoded.append(output)
        first = strength < 1 and len(encoded) == 1
        return usual(output, generator) if first else output.latent_dist.mode()

    with mock.patch.object(module, "retrieve_latents", retrieve):
        reference = diffusers_picture(
            kind,
            pipe.components,
            "Euler",
            strength,
            image=image,
            mask_image=mask,
            height=128,
            width=128,
        )
    edit = Edit(image, mask=mask, strength=strength, mask_blur=0, rules="diffusers", paste=False)
    with sdlite.load(tmp_path / "package") as opened:
        check(reference, draw(opened, edit, "Euler"), tmp_path)


@pytest.mark.parametrize(
    ("how", "mode", "antialias"),
    [
        ("linear", "bilinear", False),
        ("linear", "bilinear", True),
        ("cubic", "bicubic", False),
        ("smooth", "bicubic", True),
        ("nearest", "nearest", False),
        ("exact", "nearest-exact", False),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (21, 40)])
def test_latents_are_scaled_as_torch_scales_them(how, mode, antialias, size):
    latents = np.random.default_rng(1).standard_normal((2, 4, 16, 20)).astype(np.float32)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(latents), size=size, mode=mode, antialias=antialias
    ).numpy()
    assert np.abs(scale_latents(latents, *size, how) - reference).max() < 1e-5


def test_a_second_pass_is_image_to_image_of_the_first(ours, theirs, tmp_path):
    """A1111's hires with a pixel upscaler: diffusers draws the same picture in two jobs."""
    settings = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "sampler": "Euler"}
    hires = Hires(scale=1.5, upscaler="Lanczos", strength=0.5, steps=STEPS // 2)
    small = ours.generate(PROMPT, **settings).images[0]
    large = small.resize((192, 192), Image.Resampling.LANCZOS)
    pipe_components = dict(theirs)
    scale = theirs["vae"].config.scaling_factor
    pixels = torch.from_numpy(np.asarray(large, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.no_grad():
        latents = theirs["vae"].encode(pixels).latent_dist.mean * scale
    reference = diffusers_picture(
        StableDiffusionImg2ImgPipeline, pipe_components, "Euler", 0.5, image=latents
    )
    check(reference, ours.generate(PROMPT, hires=hires, **settings), tmp_path)
