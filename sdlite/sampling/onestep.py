"""Samplers without memory: Euler, Heun and DPM-Solver-2 steps, ancestral forms, consistency models.

How intervals, states and options work is said in ``loop``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.loop import ancestral_split, begin, churn, finish, lowest
from sdlite.sampling.schedules import karras_between
from sdlite.types import Denoise, Float32, Noise, SamplerState, Step

RESTART_STEPS = 20
RESTART_TWICE_STEPS = 36
RESTART_LOW = 0.1
RESTART_HIGH = 2.0


def euler(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Euler steps: Karras et al. 2022, algorithm 2 without its correction."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    options = (s_churn, s_tmin, s_tmax, s_noise)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x, sigma = churn(x, sigma, sigma_next, len(sigmas) - 1, noise, options)
        x0 = denoise(x, sigma).x0
        d = (x - x0) / sigma
        x = x + d * (sigma_next - sigma)
        yield finish(i, sigmas, x, x0, noise)


def euler_ancestral(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Euler steps that go below the next level and add fresh noise up to it.

    With ``eta`` 1 an interval is the posterior of Ho et al. 2020 (DDPM, the smaller variance), with
    less it is Song et al. 2020 (DDIM), equation 12, and with 0 it draws nothing.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        down, up = ancestral_split(sigma, sigma_next, eta)
        d = (x - x0) / sigma
        x = x + d * (down - sigma)
        if up > 0.0:
            x = x + noise(sigma, sigma_next) * (up * s_noise)
        yield finish(i, sigmas, x, x0, noise)


def ddim(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM: Song et al. 2020, equation 12; ``euler_ancestral`` with another default."""
    return euler_ancestral(denoise, x, sigmas, noise, resume, eta=eta)


def ddim_cfgpp(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM whose noise is the one predicted without the prompt: Chung et al. 2024 (CFG++).

    Guidance is A1111's: the scale given is divided by 12.5, see ``SamplerInfo.guidance_factor``.
    Without guidance it is DDIM.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        estimate = denoise(x, sigma)
        without = estimate.x0 if estimate.x0_uncond is None else estimate.x0_uncond
        down, up = ancestral_split(sigma, sigma_next, eta)
        x = estimate.x0 + (x - without) * (down / sigma)
        if up > 0.0:
            x = x + noise(sigma, sigma_next) * up
        yield finish(i, sigmas, x, estimate.x0, noise)


def heun_step(
    denoise: Denoise, x: Float32, sigma: float, sigma_next: float
) -> tuple[Float32, Float32]:
    """Latents at ``sigma_next`` by Heun's method (to 0 by Euler's), and the first estimate."""
    x0 = denoise(x, sigma).x0
    d = (x - x0) / sigma
    trial = x + d * (sigma_next - sigma)
    if sigma_next > 0.0:
        d_next = (trial - denoise(trial, sigma_next).x0) / sigma_next
        trial = x + (d + d_next) * (0.5 * (sigma_next - sigma))
    return trial, x0


def heun(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun's method: Karras et al. 2022, algorithm 2; the interval that ends in 0 is Euler.

    Two evaluations an interval; the step's ``x0`` is the first one's.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    options = (s_churn, s_tmin, s_tmax, s_noise)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x, sigma = churn(x, sigma, sigma_next, len(sigmas) - 1, noise, options)
        x, x0 = heun_step(denoise, x, sigma, sigma_next)
        yield finish(i, sigmas, x, x0, noise)


def restart_intervals(sigmas: Float32) -> Float32:
    """Levels Restart goes from and to, shape (intervals, 2), in its authors' default settings.

    From 20 intervals on, nine of them (from 36 on, twice a quarter of them) are taken off the
    schedule, which becomes Karras', and spent on going from sigma 2 to 0.1 once (twice) more.
    """
    steps = len(sigmas) - 1
    plain = np.stack([sigmas[:-1], sigmas[1:]], axis=1)
    if steps < RESTART_STEPS:
        return plain
    spent, times = (steps // 4, 2) if steps >= RESTART_TWICE_STEPS else (9, 1)
    main = karras_between(float(sigmas[0]), lowest(sigmas), steps - spent * times)
    main = np.append(main, np.float32(0.0))
    low = int(np.argmin(np.abs(main - RESTART_LOW)))
    high = int(np.argmin(np.abs(main - RESTART_HIGH)))
    again = karras_between(float(main[high]), float(main[low]), spent + 1)
    pairs = np.stack([main[:-1], main[1:]], axis=1)
    back = np.stack([again[:-1], again[1:]], axis=1)
    if high >= low:
        return pairs
    return np.concatenate([pairs[:low], *[back] * times, pairs[low:]])


def restart(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun steps that jump back up to repeat a part of the schedule: Xu et al. 2023, algorithm 1.

    As A1111 sets it up, see ``restart_intervals``; the levels of ``sigmas`` matter below 20 steps
    only, later just its ends.
    """
    pairs = restart_intervals(sigmas)
    starts = np.append(pairs[:, 0], pairs[-1, 1])
    x, todo, _ = begin(x, starts, noise, resume)
    for i in todo:
        sigma, sigma_next = float(pairs[i, 0]), float(pairs[i, 1])
        before = float(pairs[i - 1, 1]) if i > 0 else sigma
        if sigma > before:
            x = x + noise(before, sigma) * (s_noise * (sigma * sigma - before * before) ** 0.5)
        x, x0 = heun_step(denoise, x, sigma, sigma_next)
        yield finish(i, starts, x, x0, noise)


def dpm2(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Midpoint steps in log sigma, after DPM-Solver-2 (Lu et al. 2022) as k-diffusion has it."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    options = (s_churn, s_tmin, s_tmax, s_noise)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x, sigma = churn(x, sigma, sigma_next, len(sigmas) - 1, noise, options)
        x, x0 = _midpoint_step(denoise, x, sigma, sigma_next)
        yield finish(i, sigmas, x, x0, noise)


def dpm2_ancestral(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """``dpm2`` steps that go below the next level and add fresh noise up to it."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        down, up = ancestral_split(sigma, sigma_next, eta)
        x, x0 = _midpoint_step(denoise, x, sigma, down)
        if up > 0.0:
            x = x + noise(sigma, sigma_next) * (up * s_noise)
        yield finish(i, sigmas, x, x0, noise)


def _midpoint_step(
    denoise: Denoise, x: Float32, sigma: float, sigma_next: float
) -> tuple[Float32, Float32]:
    x0 = denoise(x, sigma).x0
    d = (x - x0) / sigma
    if sigma_next == 0.0:
        return x + d * (sigma_next - sigma), x0
    middle = math.sqrt(sigma * sigma_next)
    trial = x + d * (middle - sigma)
    d = (trial - denoise(trial, middle).x0) / middle
    return x + d * (sigma_next - sigma), x0


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++(2S), Lu et al. 2022 (DPM-Solver++), algorithm 1, in ancestral steps."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        down, up = ancestral_split(sigma, sigma_next, eta)
        if down == 0.0:
            x = x0
        else:
            middle = math.sqrt(sigma * down)
            h = math.log(sigma / down)
            trial = x * (middle / sigma) - x0 * math.expm1(-0.5 * h)
            x = x * (down / sigma) - denoise(trial, middle).x0 * math.expm1(-h)
        if up > 0.0:
            x = x + noise(sigma, sigma_next) * (up * s_noise)
        yield finish(i, sigmas, x, x0, noise)


def lcm(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """Multistep consistency sampling: Luo et al. 2023 (latent consistency models), algorithm 3.

    ``denoise`` must be the consistency function, see ``denoiser(..., consistency=True)``; each
    interval takes its estimate and adds fresh noise of the next level.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        x = x0 + noise(sigma, sigma_next) * sigma_next if sigma_next > 0.0 else x0
        yield finish(i, sigmas, x, x0, noise)


def tcd(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    levels: NoiseLevels,
    eta: float = 0.3,
) -> Iterator[Step]:
    """Strategic stochastic sampling: Zheng et al. 2024 (trajectory consistency), algorithm 4.

    Goes to the timestep ``1 - eta`` times the next one and adds noise up to that; ``eta`` is the
    paper's gamma.
    """
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            target = math.floor((1.0 - eta) * levels.sigma_to_timestep(sigma_next) + 1e-6)
            down = min(float(levels.sigmas[target]), sigma_next)
            x = x0 + (x - x0) * (down / sigma)
            up = (sigma_next * sigma_next - down * down) ** 0.5
            if up > 0.0:
                x = x + noise(sigma, sigma_next) * up
        yield finish(i, sigmas, x, x0, noise)
