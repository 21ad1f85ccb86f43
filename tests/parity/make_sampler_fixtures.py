"""Make tests/null/fixtures/samplers.npz: trajectories and schedules of k-diffusion and diffusers.

    pip install --no-deps k-diffusion==0.1.1.post1 torchsde==0.2.6 torchdiffeq==0.2.5 trampoline
    pip install scipy diffusers
    python tests/parity/make_sampler_fixtures.py

The model is analytic (`denoised` below) and all noise is stored, so that the trajectories can be
repeated without torch. k-diffusion's two modules are loaded without the package's ``__init__``,
which imports its training code.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler

OUT = Path(__file__).parents[1] / "null" / "fixtures" / "samplers.npz"
SHAPE = (2, 4, 4, 4)
STEPS = 8
SCHEDULE_STEPS = (1, 2, 7, 20, 50)


def load_k_diffusion() -> types.ModuleType:
    """``k_diffusion.sampling`` and ``.external``, with a stand-in for ``.utils``."""
    folder = Path(importlib.util.find_spec("k_diffusion").submodule_search_locations[0])
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(folder)]
    sys.modules["k_diffusion"] = package
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    sys.modules["k_diffusion.utils"] = utils
    package.utils = utils
    for name in ("sampling", "external"):
        spec = importlib.util.spec_from_file_location(f"k_diffusion.{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[f"k_diffusion.{name}"] = module
        setattr(package, name, module)
        spec.loader.exec_module(module)
    return package


def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A smooth, non-linear denoiser; tests/null/test_sampling_reference.py has it in numpy."""
    sigma = sigma.reshape(-1, 1, 1, 1)
    return 0.9 * torch.tanh(x * 0.81 / (0.81 + sigma * sigma)) + 0.1 * torch.sin(x / (1 + sigma))


class Replay:
    """Hands out the stored noise in order and counts the draws."""

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise, self.draws = noise, 0

    def __call__(self, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        self.draws += 1
        return self.noise[self.draws - 1]


def k_trajectory(function, start, sigmas, noise, **options) -> np.ndarray:
    """x after each interval."""
    points: list[torch.Tensor] = []
    callback = lambda info: points.append(info["x"].clone())  # noqa: E731
    end = function(denoised, start * sigmas[0], sigmas, callback=callback, disable=True, **options)
    return torch.stack([*points[1:], end]).numpy()


def main() -> None:
    k = load_k_diffusion()
    generator = torch.Generator().manual_seed(2024)
    start = torch.randn(SHAPE, generator=generator)
    noise = torch.randn((STEPS, *SHAPE), generator=generator)
    table = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    levels = k.external.DiscreteEpsDDPMDenoiser(None, table.alphas_cumprod, quantize=False)
    low, high = levels.sigma_min.item(), levels.sigma_max.item()
    sampling = k.sampling
    arrays = {"start": start.numpy(), "noise": noise.numpy()}

    # Schedules: k-diffusion's own, and A1111's definitions on top of k-diffusion's tables.
    for n in SCHEDULE_STEPS:
        arrays[f"uniform_{n}"] = levels.get_sigmas(n).numpy()
        arrays[f"karras_{n}"] = sampling.get_sigmas_karras(n, low, high).numpy()
        arrays[f"exponential_{n}"] = sampling.get_sigmas_exponential(n, low, high).numpy()
        ends = levels.sigma_to_t(levels.sigma_max), levels.sigma_to_t(levels.sigma_min)
        for name, times in (
            ("normal", torch.linspace(*ends, n)),
            ("sgm_uniform", torch.linspace(*ends, n + 1)[:-1]),
        ):
            arrays[f"{name}_{n}"] = sampling.append_zero(levels.t_to_sigma(times)).numpy()
        every = torch.tensor([-(1 + int(i * (1000 / n))) for i in range(n)])
        arrays[f"simple_{n}"] = sampling.append_zero(levels.sigmas[every]).numpy()
    for n in (5, 20, 50):
        scheduler = EulerDiscreteScheduler.from_config(
            table.config, timestep_spacing="leading", steps_offset=1
        )
        scheduler.set_timesteps(n)
        arrays[f"ddim_{n}"] = scheduler.sigmas.numpy()
    arrays["levels"] = levels.sigmas.numpy()
    probe = torch.exp(torch.linspace(np.log(low * 0.9), np.log(high * 1.1), 64))
    arrays["probe_sigmas"] = probe.numpy()
    arrays["probe_timesteps"] = levels.sigma_to_t(probe).numpy()

    # Trajectories over two schedules each.
    sigmas = {
        "karras": sampling.get_sigmas_karras(STEPS, low, high),
        "uniform": levels.get_sigmas(STEPS),
    }
    for name, schedule in sigmas.items():
        arrays[f"sigmas_{name}"] = schedule.numpy()
        for sampler, function, stochastic in (
            ("Euler", sampling.sample_euler, False),
            ("Euler a", sampling.sample_euler_ancestral, True),
            ("Heun", sampling.sample_heun, False),
            ("DPM++ 2M", sampling.sample_dpmpp_2m, False),
            ("DPM++ 2M SDE", sampling.sample_dpmpp_2m_sde, True),
        ):
            options = {"noise_sampler": Replay(noise)} if stochastic else {}
            path = k_trajectory(function, start, schedule, noise, **options)
            arrays[f"x_{sampler}_{name}"] = path
            if stochastic:
                arrays[f"draws_{sampler}_{name}"] = np.array(options["noise_sampler"].draws)
    # Brownian noise of two images, each with its own seed, over the Karras schedule.
    seeds = [5, 2**32 + 6]
    tree = sampling.BrownianTreeNoiseSampler(
        start, sigmas["karras"][-2], sigmas["karras"][0], seed=seeds
    )
    pairs = zip(sigmas["karras"][:-2], sigmas["karras"][1:-1], strict=True)
    arrays["brownian"] = torch.stack([tree(a, b) for a, b in pairs]).numpy()
    arrays["brownian_seeds"] = np.array(seeds)
    add_timestep_samplers(arrays, table.alphas_cumprod, start, noise)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **arrays)
    print(OUT, OUT.stat().st_size)


def add_timestep_samplers(arrays, alphas_cumprod, start, noise) -> None:
    """DDIM and LCM by diffusers, whose latents are scaled by 1/sqrt(sigma^2+1)."""
    from diffusers import DDIMScheduler, LCMScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

    def eps_of(x: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = alphas_cumprod[timestep]
        sigma = ((1 - alpha) / alpha).sqrt()
        wide = x / alpha.sqrt()
        return (wide - denoised(wide, sigma)) / sigma, sigma

    ddim = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=True, steps_offset=1)
    ddim.set_timesteps(STEPS)
    lcm = LCMScheduler(**betas, clip_sample=False, set_alpha_to_one=True)
    lcm.set_timesteps(4)
    for name, scheduler in (("DDIM", ddim), ("LCM", lcm)):
        x, path, sigmas = start.clone(), [], []
        replay = Replay(noise)
        hooked = sys.modules[type(scheduler).__module__]
        hooked.randn_tensor = lambda *_, replay=replay, **__: replay(None, None)
        for index, timestep in enumerate(scheduler.timesteps):
            eps, sigma = eps_of(x, timestep)
            x = scheduler.step(eps, timestep, x).prev_sample
            sigmas.append(sigma.item())
            last = index + 1 == len(scheduler.timesteps)
            later = None if last else alphas_cumprod[scheduler.timesteps[index + 1]]
            path.append(x if last else x / later.sqrt())
        arrays[f"x_{name}"] = torch.stack(path).numpy()
        arrays[f"sigmas_{name}"] = np.array([*sigmas, 0.0], np.float32)
        arrays[f"timesteps_{name}"] = scheduler.timesteps.numpy()


if __name__ == "__main__":
    main()
