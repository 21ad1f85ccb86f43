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
from functools import partial
from pathlib import Path

import numpy as np
import scipy.stats
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
    noise = torch.randn((2 * STEPS, *SHAPE), generator=generator)
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
            ("LMS", sampling.sample_lms, False),
            ("DPM2", sampling.sample_dpm_2, False),
            ("DPM2 a", sampling.sample_dpm_2_ancestral, True),
            ("DPM++ 2S a", sampling.sample_dpmpp_2s_ancestral, True),
            ("DPM++ SDE", sampling.sample_dpmpp_sde, True),
            ("DPM++ 2M SDE Heun", partial(sampling.sample_dpmpp_2m_sde, solver_type="heun"), True),
            ("DPM++ 3M SDE", sampling.sample_dpmpp_3m_sde, True),
        ):
            options = {"noise_sampler": Replay(noise)} if stochastic else {}
            path = k_trajectory(function, start, schedule, noise, **options)
            arrays[f"x_{sampler}_{name}"] = path
            if stochastic:
                arrays[f"draws_{sampler}_{name}"] = np.array(options["noise_sampler"].draws)
    add_options(arrays, sampling, start, sigmas["karras"], noise)
    add_dpm_solver(arrays, sampling, start, sigmas["karras"], noise)
    add_restart(arrays, sampling, start, low, high, noise)
    # Brownian noise of two images, each with its own seed, over the Karras schedule.
    seeds = [5, 2**32 + 6]
    tree = sampling.BrownianTreeNoiseSampler(
        start, sigmas["karras"][-2], sigmas["karras"][0], seed=seeds
    )
    pairs = zip(sigmas["karras"][:-2], sigmas["karras"][1:-1], strict=True)
    arrays["brownian"] = torch.stack([tree(a, b) for a, b in pairs]).numpy()
    arrays["brownian_seeds"] = np.array(seeds)
    add_timestep_samplers(arrays, table.alphas_cumprod, start, noise)
    add_multistep(arrays, start, sigmas["karras"], noise, levels)
    # Schedules that diffusers and scipy define.
    for n in SCHEDULE_STEPS:
        places = scipy.stats.beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6)
        arrays[f"beta_{n}"] = np.append(low + places * (high - low), 0.0)
        for spacing in ("leading", "trailing"):
            scheduler = EulerDiscreteScheduler.from_config(
                table.config, timestep_spacing=spacing, steps_offset=1
            )
            scheduler.set_timesteps(n)
            arrays[f"{spacing}_{n}"] = scheduler.sigmas.numpy()
    quantiles = np.array([1e-12, 1e-6, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-6])
    shapes = np.array([(0.6, 0.6), (0.3, 2.5), (1.0, 1.0), (8.0, 0.7)])
    arrays["beta_p"], arrays["beta_shapes"] = quantiles, shapes
    arrays["beta_x"] = np.stack([scipy.stats.beta.ppf(quantiles, *shape) for shape in shapes])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, **arrays)
    print(OUT, OUT.stat().st_size)


def add_options(arrays, sampling, start, schedule, noise) -> None:
    """Ends of runs with churn, with less fresh noise, with stronger noise."""
    churn = {"s_churn": 6.0, "s_tmin": 0.1, "s_tmax": 8.0, "s_noise": 1.1}
    fresh = {"eta": 0.4, "s_noise": 1.1}
    # k-diffusion takes churn's noise from torch itself.
    hijack = types.SimpleNamespace(**vars(torch))
    for name, function, options in (
        ("Euler", sampling.sample_euler, churn),
        ("Heun", sampling.sample_heun, churn),
        ("DPM2", sampling.sample_dpm_2, churn),
        ("Euler a", sampling.sample_euler_ancestral, fresh),
        ("DPM2 a", sampling.sample_dpm_2_ancestral, fresh),
        ("DPM++ 2S a", sampling.sample_dpmpp_2s_ancestral, fresh),
        ("DPM++ SDE", sampling.sample_dpmpp_sde, fresh),
        ("DPM++ 2M SDE", sampling.sample_dpmpp_2m_sde, fresh),
        ("DPM++ 3M SDE", sampling.sample_dpmpp_3m_sde, fresh),
    ):
        replay = Replay(noise)
        options = dict(options)
        if "eta" in options:
            options["noise_sampler"] = replay
        hijack.randn_like = lambda x, replay=replay: replay(None, None)
        sampling.torch = hijack
        path = k_trajectory(function, start, schedule, noise, **options)
        sampling.torch = torch
        arrays[f"x_{name}_options"] = path[-1]


def add_dpm_solver(arrays, sampling, start, schedule, noise) -> None:
    """DPM-Solver between the schedule's ends: fast with 2 to 9 evaluations, and adaptive."""
    high, low = schedule[0].item(), schedule[-2].item()
    for eta in (0.0, 1.0):
        for n in (2, 3, 4, 8, 9):
            arrays[f"x_DPM fast_{n}_{eta:g}"] = sampling.sample_dpm_fast(
                denoised, start * high, low, high, n, None, None, True, eta, 1.0, Replay(noise)
            ).numpy()
        # From halfway: higher up float32 cancels so much of the error estimate that step sizes,
        # and with them ends of runs, differ by 1e-4 between one order of sums and another.
        middle = schedule[3].item()
        counted = Replay(torch.cat([noise] * 8))
        x, info = sampling.sample_dpm_adaptive(
            denoised,
            start * middle,
            low,
            middle,
            disable=True,
            eta=eta,
            noise_sampler=counted,
            return_info=True,
        )
        arrays[f"x_DPM adaptive_{eta:g}"] = x.numpy()
        arrays[f"counts_DPM adaptive_{eta:g}"] = np.array([info["n_accept"], info["nfe"]])


def add_restart(arrays, sampling, start, low, high, noise) -> None:
    """Restart of 24 and of 40 steps, put together from runs of k-diffusion's Heun."""
    for steps, spent, times in ((24, 9, 1), (40, 10, 2)):
        main = sampling.get_sigmas_karras(steps - spent * times, low, high)
        end, top = (int(torch.argmin(abs(main - sigma))) for sigma in (0.1, 2.0))
        again = sampling.get_sigmas_karras(spent + 1, main[end].item(), main[top].item())[:-1]
        x = sampling.sample_heun(denoised, start * main[0], main[: end + 1], disable=True)
        for jump in range(times):
            x = x + noise[jump] * (again[0] ** 2 - main[end] ** 2) ** 0.5
            x = sampling.sample_heun(denoised, x, again, disable=True)
        x = sampling.sample_heun(denoised, x, main[end:], disable=True)
        arrays[f"x_Restart_{steps}"] = x.numpy()


def add_multistep(arrays, start, schedule, noise, levels) -> None:
    """UniPC, DEIS and SA-Solver by diffusers on our levels, to 0 and to the lowest above it."""
    from diffusers import DEISMultistepScheduler, SASolverScheduler, UniPCMultistepScheduler

    times = levels.sigma_to_t(schedule[:-1])
    for name, scheduler, ends in (
        ("UniPC", UniPCMultistepScheduler(solver_order=3, solver_type="bh1"), "low"),
        ("UniPC bh2", UniPCMultistepScheduler(solver_order=2, solver_type="bh2"), "both"),
        ("DEIS", DEISMultistepScheduler(solver_order=3, lower_order_final=False), "low"),
        ("SA-Solver", SASolverScheduler(), "low"),
    ):
        for end in ("low", "zero") if ends == "both" else (ends,):
            sigmas = schedule if end == "zero" else schedule[:-1]
            count = len(sigmas) - 1
            scheduler.set_timesteps(count)
            scheduler.sigmas, scheduler.timesteps = sigmas.clone(), times[:count]
            replay = Replay(noise)
            hooked = sys.modules[type(scheduler).__module__]
            # SA-Solver draws in every interval, and uses it in some; ours draws only those.
            hooked.randn_tensor = lambda *_, replay=replay, **__: replay(None, None)
            scheduler.set_begin_index(0)
            wide, path = start * sigmas[0], []
            for i in range(count):
                scale = (sigmas[i] ** 2 + 1) ** 0.5
                eps = (wide - denoised(wide, sigmas[i])) / sigmas[i]
                x = scheduler.step(eps, scheduler.timesteps[i], wide / scale).prev_sample
                wide = x * (sigmas[i + 1] ** 2 + 1) ** 0.5
                path.append(wide)
            arrays[f"x_{name}_{end}"] = torch.stack(path).numpy()


def add_timestep_samplers(arrays, alphas_cumprod, start, noise) -> None:
    """DDIM, DDPM, PNDM, LCM and TCD by diffusers, with latents scaled by 1/sqrt(sigma^2+1).

    iPNDM, which diffusers runs on a schedule of its own.
    """
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        IPNDMScheduler,
        LCMScheduler,
        PNDMScheduler,
        TCDScheduler,
    )

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
    ddpm = DDPMScheduler(**betas, clip_sample=False, steps_offset=1)
    ddpm.set_timesteps(STEPS)
    plms = PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=True, steps_offset=1)
    plms.set_timesteps(STEPS)
    tcd = TCDScheduler(**betas)
    tcd.set_timesteps(4)
    for name, scheduler, options in (
        ("DDIM", ddim, {}),
        ("DDIM eta", ddim, {"eta": 0.6}),
        ("DDPM", ddpm, {}),
        ("PLMS", plms, {}),
        ("LCM", lcm, {}),
        ("TCD", tcd, {"eta": 0.3}),
    ):
        x, path, sigmas = start.clone(), [], []
        replay = Replay(noise)
        hooked = sys.modules[type(scheduler).__module__]
        hooked.randn_tensor = lambda *_, replay=replay, **__: replay(None, None)
        for index, timestep in enumerate(scheduler.timesteps):
            eps, sigma = eps_of(x, timestep)
            x = scheduler.step(eps, timestep, x, **options).prev_sample
            sigmas.append(sigma.item())
            last = index + 1 == len(scheduler.timesteps)
            later = 0 if last else scheduler.timesteps[index + 1]
            # TCD ends at the level of timestep 0, the others in 0.
            path.append(x if last and name != "TCD" else x / alphas_cumprod[later].sqrt())
        if name == "PLMS":  # it visits its second timestep twice, the first time on trial
            path, sigmas = path[1:], [*sigmas[:1], *sigmas[2:]]
        arrays[f"x_{name}"] = torch.stack(path).numpy()
        arrays[f"sigmas_{name}"] = np.array([*sigmas, 0.0], np.float32)
        arrays[f"timesteps_{name}"] = scheduler.timesteps.numpy()
    arrays["sigmas_TCD"][-1] = ((1 - alphas_cumprod[0]) / alphas_cumprod[0]).sqrt()
    schedule = torch.from_numpy(arrays["sigmas_karras"])
    sines = schedule / (schedule**2 + 1).sqrt()
    ipndm = IPNDMScheduler(STEPS, trained_betas=sines.tolist())
    x, path = start * schedule[0] / (schedule[0] ** 2 + 1).sqrt(), []
    for i, timestep in enumerate(ipndm.timesteps):
        scale = (schedule[i] ** 2 + 1).sqrt()
        eps = (x * scale - denoised(x * scale, schedule[i])) / schedule[i]
        velocity = (eps - x * sines[i]) * scale  # what the scheduler expects a network to say
        x = ipndm.step(velocity, timestep, x).prev_sample
        path.append(x * (schedule[i + 1] ** 2 + 1).sqrt())
    arrays["x_iPNDM"] = torch.stack(path).numpy()


if __name__ == "__main__":
    main()
