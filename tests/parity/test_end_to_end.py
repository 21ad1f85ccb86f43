"""Whole pictures: our package on ONNX Runtime against diffusers' pipeline, both from the files.

Text encoder, U-Net, sampler and decoder are ours on one side and diffusers' on the other; they
share only the weights, the sigmas and the injected noise. How schedulers are aligned is said in
``test_sampler_parity``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, PNDMScheduler
from PIL import Image
from sdlite_export.export import export_package

import sdlite
from sdlite.sampling import sigmas_for
from tests.parity.test_sampler_parity import (
    BETAS,
    CASES,
    GUIDANCE,
    LEAST_DB,
    LEVELS,
    MODEL,
    MULTISTEP,
    NEGATIVE,
    PROMPT,
    SEED,
    STEPS,
    aligned,
    brownian_noise,
    pictures,
    pipe,
)

__all__ = ["pipe"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity") / "package"
    export_package(MODEL, folder, precision="fp32")
    with sdlite.load(folder) as opened:
        yield opened


def scheduler_of(name):
    if name == "DDIM":
        made = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1)
    elif name == "PLMS":
        made = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    elif name == "DDPM":
        made = DDPMScheduler(**BETAS, clip_sample=False, steps_offset=1)
    elif name == "LCM":
        made = LCMScheduler(**BETAS, clip_sample=False)
    else:
        kind, options = (CASES | MULTISTEP)[name]
        return kind(**BETAS, **options)
    made.alphas_cumprod = torch.from_numpy(1.0 / (1.0 + LEVELS.sigmas**2))
    return made


@pytest.mark.parametrize("name", [*CASES, "LMS", "UniPC", "DDIM", "PLMS", "DDPM", "LCM"])
def test_the_picture_is_diffusers_picture(pipe, ours, tmp_path, name):
    # Each step of LCM draws the picture anew from fresh noise, and shapes is no consistency model:
    # over many steps that amplifies the last bit of every float.
    steps = 8 if name == "LCM" else STEPS
    sigmas = sigmas_for(None, LEVELS, steps, name)
    times = np.array([LEVELS.sigma_to_timestep(float(s)) for s in sigmas[:-1]], np.float32)
    if name == "LCM":
        times = times.round().astype(np.int64)
    whole = None
    if name in ("DDIM", "PLMS"):
        # A1111's stop at timestep 1: theirs do not run the last of their timesteps.
        whole, scheduler = STEPS, scheduler_of(name)
        scheduler.set_timesteps(STEPS)
        times = scheduler.timesteps[:-1].numpy()
    theirs = aligned(
        pipe,
        scheduler_of(name),
        name,
        sigmas,
        None if name == "DDPM" else times,
        step_noise=brownian_noise(name, sigmas),
        whole=whole,
    )
    reference = pictures(pipe, theirs)[0]
    assert reference.std() > 0.05, "nothing was drawn, so nothing was compared"
    result = ours.generate(
        PROMPT,
        negative_prompt=NEGATIVE,
        seed=SEED,
        steps=steps,
        guidance=GUIDANCE,
        sampler=name,
    )
    rounded = (reference * 255).round()
    error = float(np.mean((rounded - np.asarray(result.images[0], np.float64)) ** 2))
    decibels = 10 * np.log10(255.0**2 / max(error, 1e-20))
    print(f"{name}: {decibels:.1f} dB")
    if decibels < LEAST_DB:
        result.images[0].save(tmp_path / "ours.png")
        Image.fromarray(rounded.astype(np.uint8)).save(tmp_path / "reference.png")
    assert decibels >= LEAST_DB, f"{decibels:.1f} dB < {LEAST_DB} dB; pictures in {tmp_path}"
