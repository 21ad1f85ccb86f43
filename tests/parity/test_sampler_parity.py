"""Our samplers against diffusers' pipeline on the shapes model: same sigmas, same injected noise.

The network and the decoder are torch's on both sides, so only sampling is compared. The model is
``models/shapes/diffusers``, or the folder that SDLITE_PARITY_MODEL names; without one the tests
fail. What had to be aligned, because diffusers defines it differently:

- Euler, Euler a, Heun, DPM++ 2M, DPM++ 2M SDE: diffusers rounds timesteps to whole numbers and
  starts and ends its schedules in its own ways, so its ``sigmas`` and ``timesteps`` are overwritten
  with ours. Its DPM++ works in latents scaled by 1/sqrt(sigma^2+1) and starts them with unit
  variance; they are given k-diffusion's start, ``noise * sigma``. Step noise of Euler a comes from
  torch's generator on its side and from ours on ours; DPM++ 2M SDE is injected our Brownian noise,
  where diffusers would draw afresh.
- LMS, UniPC, DEIS, SA-Solver: as those. Order of UniPC 3 with bh1 (A1111's), of DEIS 3. They end
  at the lowest level above 0, where diffusers' formulas for an end in 0 are not of use.
- DDIM, PLMS, DDPM: their table of alphas is ours (float64 products rounded, instead of float32
  products). DDIM stops at timestep 1 as A1111 does, and so do we, with the latents in the model's
  scale; PLMS and DDPM go on to 0 on the same timesteps.
- LCM: A1111 spaces its timesteps differently (999, 672, 346, 19 for 4 steps) from diffusers (999,
  759, 499, 259); ours visits diffusers' here. The shapes model is no consistency model, which
  matters to the picture, not to the comparison.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image

from sdlite.manifest import NoiseTable
from sdlite.sampling import (
    NoiseLevels,
    batch_noise,
    denoiser,
    final_latents,
    find_sampler,
    initial_latents,
    noise_for,
    sigmas_for,
)
from sdlite.types import Cond, StepConds

ROOT = Path(__file__).parents[2]
MODEL = Path(os.environ.get("SDLITE_PARITY_MODEL", ROOT / "models" / "shapes" / "diffusers"))
PROMPT = "a large red circle left of a small yellow star on a blue background"
NEGATIVE = "outline"
GUIDANCE = 5.0
SEED = 1234
SHAPE = (4, 16, 16)
STEPS = 20
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEVELS = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))
LEAST_DB = 50.0

# The reference's own warnings about numpy and torch are not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]


@pytest.fixture(scope="module")
def pipe():
    # The network is small: more threads than one wait for each other more than they compute.
    torch.set_num_threads(1)
    loaded = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def contexts(pipe):
    cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    return cond.detach().numpy(), uncond.detach().numpy()


@torch.no_grad()
def ours(pipe, contexts, name, sigmas, prediction="epsilon", seeds=(SEED,), guidance=GUIDANCE):
    """Final latents of our sampler around torch's U-Net."""

    def predict(x, timestep, cond):
        parts = (x, timestep, cond.context)
        inputs = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
        return pipe.unet(*inputs).sample.numpy()

    info = find_sampler(name)
    noise = noise_for(info, "cpu", seeds, SHAPE, LEVELS)
    start = initial_latents(info, noise(0.0, 0.0), sigmas)
    cond, uncond = contexts
    told = StepConds(((Cond(cond), 1.0),), Cond(uncond))
    model = denoiser(
        predict, LEVELS, prediction, lambda _: told, guidance, consistency=info.consistency
    )
    *_, last = info.bind(LEVELS)(model, start, sigmas, noise)
    return final_latents(info, last.x, sigmas)


@torch.no_grad()
def pictures(pipe, latents):
    """Latents decoded to pictures in 0..1."""
    decoded = pipe.vae.decode(torch.from_numpy(latents) / pipe.vae.config.scaling_factor).sample
    return (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def injected(noise, sigmas):
    """Stand-in for diffusers' source of step noise, which it asks in the last interval too."""
    intervals = iter(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True))

    def draw(shape, **_):
        sigma, sigma_next = next(intervals)
        if sigma_next == 0.0:
            return torch.zeros(shape)
        return torch.from_numpy(noise(sigma, sigma_next))

    return draw


def aligned(pipe, scheduler, name, sigmas, timesteps=None, step_noise=None, whole=None):
    """Final latents of diffusers' pipeline from the same noise.

    ``timesteps``: what to overwrite the scheduler's with, together with ``sigmas``.
    ``step_noise``: our source, past its first draw, that replaces the scheduler's step noise; else
    the scheduler draws from torch's generator.
    ``whole``: steps the scheduler is told, where ``timesteps`` are not all of them.
    """
    info = find_sampler(name)
    generator = torch.Generator("cpu").manual_seed(SEED)
    # The first draw is the start; the pipeline draws step noise from where that left the stream.
    noise = torch.randn((1, *SHAPE), generator=generator).numpy()
    start = torch.from_numpy(initial_latents(info, noise, sigmas))
    usual = scheduler.set_timesteps
    second_order = isinstance(scheduler, HeunDiscreteScheduler)

    def set_timesteps(*args, **kwargs):
        if whole is not None:
            usual(whole)
        else:
            usual(*args, **kwargs)
        if timesteps is None:
            return
        times, levels = torch.tensor(timesteps), torch.from_numpy(sigmas.copy())
        if second_order:
            levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
            times = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        scheduler.sigmas, scheduler.timesteps = levels, times

    scheduler.set_timesteps = set_timesteps
    scheduler.set_timesteps(len(sigmas) - 1)
    if not hasattr(scheduler, "scale_model_input") or scheduler.init_noise_sigma == 1.0:
        # Variance-preserving schedulers hold latents in the model's own scale.
        start = start / float(np.hypot(sigmas[0], 1.0))
    pipe.scheduler = scheduler
    module = sys.modules[type(scheduler).__module__]
    if step_noise is None:
        replaced = contextlib.nullcontext()
    else:
        replaced = mock.patch.object(module, "randn_tensor", injected(step_noise, sigmas))
    with replaced:
        return pipe(
            PROMPT,
            negative_prompt=NEGATIVE,
            height=SHAPE[1] * 8,
            width=SHAPE[2] * 8,
            num_inference_steps=len(sigmas) - 1,
            guidance_scale=GUIDANCE,
            generator=generator,
            latents=start / float(scheduler.init_noise_sigma),
            output_type="latent",
        ).images.numpy()


def compare(pipe, folder, a, b, least=LEAST_DB):
    """PSNR in dB of two decoded latents; keeps both pictures when it is too low."""
    first, second = pictures(pipe, a)[0], pictures(pipe, b)[0]
    assert first.std() > 0.05, "nothing was drawn, so nothing was compared"
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    decibels = 10 * np.log10(1.0 / max(error, 1e-20))
    print(f"{decibels:.1f} dB")
    if decibels < least:
        for name, picture in (("ours", first), ("reference", second)):
            Image.fromarray((picture * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
    assert decibels >= least, f"{decibels:.1f} dB < {least} dB; pictures in {folder}"


def brownian_noise(name, sigmas):
    """Step noise to inject for a sampler that reads a Brownian path; None for the others."""
    if not find_sampler(name).brownian:
        return None
    noise = noise_for(find_sampler(name), "cpu", (SEED,), SHAPE, LEVELS)
    noise.seek(1)
    return noise


CASES = {
    "Euler": (EulerDiscreteScheduler, {}),
    "Euler a": (EulerAncestralDiscreteScheduler, {}),
    "Heun": (HeunDiscreteScheduler, {}),
    "DPM++ 2M": (DPMSolverMultistepScheduler, {}),
    "DPM++ 2M SDE": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
}


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [("Karras", "epsilon"), ("Uniform", "epsilon"), ("Automatic", "v_prediction")],
)
@pytest.mark.parametrize("name", CASES)
def test_sigma_samplers(pipe, contexts, tmp_path, name, schedule, prediction):
    kind, options = CASES[name]
    scheduler = kind(**BETAS, prediction_type=prediction, **options)
    sigmas = sigmas_for(schedule, LEVELS, STEPS, name)
    times = [LEVELS.sigma_to_timestep(float(sigma)) for sigma in sigmas[:-1]]
    step_noise = brownian_noise(name, sigmas)
    theirs = aligned(pipe, scheduler, name, sigmas, np.array(times, np.float32), step_noise)
    compare(pipe, tmp_path, ours(pipe, contexts, name, sigmas, prediction), theirs)


MULTISTEP = {
    "LMS": (LMSDiscreteScheduler, {}),
    "UniPC": (UniPCMultistepScheduler, {"solver_order": 3, "solver_type": "bh1"}),
    "DEIS": (DEISMultistepScheduler, {"solver_order": 3, "lower_order_final": False}),
    "SA-Solver": (SASolverScheduler, {}),
}


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_samplers(pipe, contexts, tmp_path, name):
    kind, options = MULTISTEP[name]
    sigmas = sigmas_for("Karras", LEVELS, STEPS, name)[:-1]
    times = np.array([LEVELS.sigma_to_timestep(float(s)) for s in sigmas[:-1]], np.float32)
    step_noise = None
    if name == "SA-Solver":  # diffusers draws where its noise is multiplied by 0, too
        step_noise = Skipping(batch_noise("cpu", (SEED,), SHAPE), (times >= 200) & (times <= 800))
    theirs = aligned(pipe, kind(**BETAS, **options), name, sigmas, times, step_noise)
    mine = ours(pipe, contexts, name, sigmas)
    if find_sampler(name).timesteps:
        # Ours is handed over in the model's scale, and so is diffusers'.
        mine = mine * np.hypot(sigmas[-1], 1.0)
    if kind is not LMSDiscreteScheduler:
        theirs = theirs * np.hypot(sigmas[-1], 1.0)
    compare(pipe, tmp_path, mine, theirs)


class Skipping:
    """Step noise for a scheduler that asks in every interval, and uses some."""

    def __init__(self, source, used):
        source.seek(1)
        self.source, self.used = source, iter(used)

    def __call__(self, sigma, sigma_next):
        drawn = self.source(sigma, sigma_next) if next(self.used) else np.zeros((1, *SHAPE))
        return np.asarray(drawn, np.float32)


def ours_on_timesteps(scheduler):
    """The scheduler with our table of alphas."""
    scheduler.alphas_cumprod = torch.from_numpy(1.0 / (1.0 + LEVELS.sigmas**2))
    return scheduler


@pytest.mark.parametrize("steps", [20, 25])
def test_ddim_as_in_a1111(pipe, contexts, tmp_path, steps):
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1)
    sigmas = sigmas_for(None, LEVELS, steps, "DDIM")
    times = np.arange(1 + 1000 // steps * (steps - 1), 1, -1000 // steps)
    theirs = aligned(pipe, ours_on_timesteps(scheduler), "DDIM", sigmas, times, whole=steps)
    compare(pipe, tmp_path, ours(pipe, contexts, "DDIM", sigmas), theirs)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("DDPM", DDPMScheduler, {"clip_sample": False}),
        ("PLMS", PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": True}),
    ],
)
def test_samplers_over_timesteps(pipe, contexts, tmp_path, name, kind, options):
    scheduler = ours_on_timesteps(kind(**BETAS, steps_offset=1, **options))
    sigmas = sigmas_for("Leading", LEVELS, STEPS, name)
    theirs = aligned(pipe, scheduler, name, sigmas)
    compare(pipe, tmp_path, ours(pipe, contexts, name, sigmas), theirs)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm(pipe, contexts, tmp_path, steps):
    scheduler = LCMScheduler(**BETAS, clip_sample=False)
    scheduler.alphas_cumprod = torch.from_numpy(1.0 / (1.0 + LEVELS.sigmas**2))
    scheduler.set_timesteps(steps)
    visited = LEVELS.sigmas[scheduler.timesteps.numpy()]
    sigmas = np.append(visited, 0.0).astype(np.float32)
    theirs = aligned(pipe, scheduler, "LCM", sigmas)
    compare(pipe, tmp_path, ours(pipe, contexts, "LCM", sigmas), theirs)


@pytest.mark.parametrize("name", ["DPM++ 2M", "Euler a"])
def test_image_of_a_batch_agrees_with_that_image_alone(pipe, contexts, tmp_path, name):
    sigmas = sigmas_for(None, LEVELS, STEPS, name)
    together = ours(pipe, contexts, name, sigmas, seeds=(SEED, SEED + 1))
    alone = ours(pipe, contexts, name, sigmas, seeds=(SEED + 1,))
    compare(pipe, tmp_path, together[1:], alone, least=45.0)
