"""Whole pictures of every family: our package against diffusers' pipeline, both from the files.

As in ``test_end_to_end`` the two share weights, sigmas and the first noise; the method is Euler's
throughout. The models are tiny and random: pictures are colourful noise, but the same noise.
"""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpainting
from diffusers.pipelines.stable_diffusion_xl import (
    pipeline_stable_diffusion_xl_inpaint as xl_inpainting,
)
from PIL import Image
from sdlite_export.export import export_package

import sdlite
from sdlite.sampling import NoiseLevels, sigmas_for
from tests.families import FAMILIES
from tests.parity.injected import inject_schedule
from tests.tiny import make_tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LEAST_DB = 50.0
STEPS, SEED, SIDE = 8, 7, 64
PROMPT, NEGATIVE = "a red circle on blue", "square"
CASES = {
    # Family, guidance, negative prompt, further arguments of diffusers' call.
    "sd2": ("sd2", 5.0, NEGATIVE, {}),
    "sd2 v": ("sd2 v", 5.0, NEGATIVE, {}),
    "sd2 zero snr": ("sd2 zero snr", 5.0, NEGATIVE, {"guidance_rescale": 0.7}),
    "sdxl": ("sdxl", 5.0, NEGATIVE, {}),
    "sdxl, empty negative prompt": ("sdxl", 5.0, "", {}),
    "sdxl, no guidance": ("sdxl", 1.0, "", {}),
    "pruned": ("pruned", 5.0, NEGATIVE, {}),
    "headless": ("headless", 5.0, "", {}),
    "lcm": ("lcm", 8.0, "", {}),
    "inpaint": ("inpaint", 5.0, NEGATIVE, {}),
    "xl inpaint": ("xl inpaint", 5.0, NEGATIVE, {}),
    "edit": ("edit", 5.0, NEGATIVE, {"image_guidance_scale": 1.7}),
    "refiner": ("refiner", 5.0, NEGATIVE, {"strength": 0.5}),
}


def picture():
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def theirs(folder, guidance, negative, more, sigmas, times):
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    inject_schedule(pipe.scheduler, sigmas, times)
    name = type(pipe).__name__
    call = {"height": SIDE, "width": SIDE}
    if "Inpaint" in name:
        call |= {"image": picture(), "mask_image": Image.new("L", (SIDE, SIDE), 255)}
        call["strength"] = 1.0
    elif "Pix2Pix" in name or "Img2Img" in name:
        call = {"image": picture()}
    # A1111 and sdlite give the U-Net the mean of the masked picture's latents.
    means = [
        mock.patch.object(
            module, "retrieve_latents", lambda encoded, **_: encoded.latent_dist.mode()
        )
        for module in (inpainting, xl_inpainting)
    ]
    with means[0], means[1]:
        return pipe(
            PROMPT,
            negative_prompt=negative or None,
            num_inference_steps=len(times),
            guidance_scale=guidance,
            generator=torch.Generator("cpu").manual_seed(SEED),
            output_type="np",
            **call,
            **more,
        ).images[0]


@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_diffusers_picture(tmp_path, case):
    family, guidance, negative, more = CASES[case]
    source = make_tiny_checkpoint(tmp_path / "source", FAMILIES[family])
    export_package(source, tmp_path / "package", precision="fp32")
    edit = None
    if family in ("edit", "refiner"):
        edit = sdlite.Edit(
            picture(),
            strength=more.get("strength", 1.0),
            rules="diffusers",
            image_guidance=more.get("image_guidance_scale", 1.5),
        )
    with sdlite.load(tmp_path / "package") as ours:
        levels = NoiseLevels.from_table(ours.package.manifest.noise)
        result = ours.generate(
            PROMPT,
            negative_prompt=negative,
            width=SIDE,
            height=SIDE,
            seed=SEED,
            steps=STEPS,
            guidance=guidance,
            sampler="Euler",
            schedule="SGM Uniform",
            edit=edit,
        )
    sigmas = sigmas_for("SGM Uniform", levels, STEPS, "Euler")
    times = np.array([levels.sigma_to_timestep(float(s)) for s in sigmas[:-1]], np.float32)
    reference = theirs(source, guidance, negative, more, sigmas, times)
    rounded = (reference * 255).round()
    assert rounded.std() > 5, "nothing was drawn, so nothing was compared"
    error = float(np.mean((rounded - np.asarray(result.images[0], np.float64)) ** 2))
    decibels = 10 * np.log10(255.0**2 / max(error, 1e-20))
    print(f"{case}: {decibels:.1f} dB")
    if decibels < LEAST_DB:
        result.images[0].save(tmp_path / "ours.png")
        Image.fromarray(rounded.astype(np.uint8)).save(tmp_path / "reference.png")
    assert decibels >= LEAST_DB, f"{decibels:.1f} dB < {LEAST_DB} dB; pictures in {tmp_path}"
