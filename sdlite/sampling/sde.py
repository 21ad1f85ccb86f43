"""Stochastic samplers of higher order: the SDE forms of DPM-Solver++, ER-SDE, SA-Solver.

k-diffusion and A1111 read the noise of the DPM++ ones off a Brownian path, diffusers draws it
afresh: the same distribution, not the same picture. The noise source decides, see ``noise_for``.
How intervals, states and options work is said in ``loop``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.loop import ancestral_split, begin, finish, keep, recall
from sdlite.sampling.multistep import Float64, lagrange_integrals
from sdlite.types import Denoise, Float32, Noise, SamplerState, Step


def dpmpp_sde(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++ as an SDE with a midpoint (k-diffusion's stochastic ``DPM++``), two draws."""
    x, todo, _ = begin(x, sigmas, noise, resume)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            middle = math.sqrt(sigma * sigma_next)
            down, up = ancestral_split(sigma, middle, eta)
            trial = x * (down / sigma) + x0 * (1.0 - down / sigma)
            if up > 0.0:
                trial = trial + noise(sigma, middle) * (up * s_noise)
            slope = denoise(trial, middle).x0
            down, up = ancestral_split(sigma, sigma_next, eta)
            x = x * (down / sigma) + slope * (1.0 - down / sigma)
            if up > 0.0:
                x = x + noise(sigma, sigma_next) * (up * s_noise)
        yield finish(i, sigmas, x, x0, noise)


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    heun: bool = False,
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M), midpoint form or with ``heun`` that of Heun.

    Lu et al. 2022 (DPM-Solver++), appendix; ``eta`` as in k-diffusion, 0 is the ODE's solver.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "x0", min(todo.start, 1))
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            h = math.log(sigma / sigma_next)
            wide = h * (1.0 + eta)
            gain = -math.expm1(-wide)
            x = x * (sigma_next / sigma * math.exp(-eta * h)) + x0 * gain
            if old:
                h_last = math.log(float(sigmas[i - 1]) / sigma)
                bend = 1.0 - gain / wide if heun else 0.5 * gain
                x = x + (x0 - old[0]) * (bend * h / h_last)
            x = _with_noise(x, sigma, sigma_next, noise, eta * h, s_noise)
        old = [x0]
        yield finish(i, sigmas, x, x0, noise, keep("x0", old))


def dpmpp_3m_sde(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """SDE-DPM-Solver++(3M) of k-diffusion: three estimates, as long as there are fewer those.

    Its weight of the second difference is half of what order 3 asks for, so it is of order 2 with
    a smaller error than 2M.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "x0", min(todo.start, 2))
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            h = math.log(sigma / sigma_next)
            wide = h * (1.0 + eta)
            gain = -math.expm1(-wide)
            x = x * math.exp(-wide) + x0 * gain
            phi_2 = 1.0 - gain / wide
            if old:
                r0 = math.log(float(sigmas[i - 1]) / sigma) / h
                first: Float32 = (x0 - old[0]) / r0
                x = x + first * phi_2
            if len(old) == 2:
                r1 = math.log(float(sigmas[i - 2]) / float(sigmas[i - 1])) / h
                before: Float32 = (old[0] - old[1]) / r1
                second: Float32 = (first - before) / (r0 + r1)
                x = x + second * (r0 * phi_2 - phi_2 / wide + 0.5)
            x = _with_noise(x, sigma, sigma_next, noise, eta * h, s_noise)
        old = [x0, *old][:2]
        yield finish(i, sigmas, x, x0, noise, keep("x0", old))


def _with_noise(
    x: Float32, sigma: float, sigma_next: float, noise: Noise, lost: float, s_noise: float
) -> Float32:
    """Add the noise of an interval whose old noise has shrunk by ``exp(-lost)`` too much."""
    if lost <= 0.0:
        return x
    scale = sigma_next * math.sqrt(-math.expm1(-2.0 * lost)) * s_noise
    return x + noise(sigma, sigma_next) * scale


def er_sde(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """ER-SDE-Solver-3: Cui et al. 2023, algorithm 3 in sigma, with its noise scale 5.

    The integrals over an interval are taken by the midpoint rule with 200 points; the authors'
    program takes the lower ends of 100, which at 8 steps is off by up to 2e-3.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "x0", min(todo.start, 1))
    slopes = recall(history, "slope", min(max(todo.start - 1, 0), 1))
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            width, scale_next = sigma - sigma_next, _er_scale(sigma_next)
            ratio = scale_next / _er_scale(sigma)
            x = x * ratio + x0 * (1.0 - ratio)
            places = sigma_next + (np.arange(200) + 0.5) * (width / 200)
            inverse = width / 200 / np.array([_er_scale(float(place)) for place in places])
            new = []
            if old:
                new = [(x0 - old[0]) / (sigma - float(sigmas[i - 1]))]
                x = x + new[0] * (scale_next * float(inverse.sum()) - width)
            if slopes:
                second = (new[0] - slopes[0]) / (0.5 * (sigma - float(sigmas[i - 2])))
                moment = float(inverse @ (places - sigma))
                x = x + second * (0.5 * width * width + scale_next * moment)
            up = max(sigma_next * sigma_next - (sigma * ratio) ** 2, 0.0) ** 0.5
            x = x + noise(sigma, sigma_next) * (up * s_noise)
            slopes = new
        old = [x0]
        yield finish(i, sigmas, x, x0, noise, keep("x0", old) | keep("slope", slopes))


def _er_scale(sigma: float) -> float:
    return float(sigma * (math.exp(sigma**0.3) + 10.0))


SA_TIMESTEPS = (200.0, 800.0)
"""Timesteps between which SA-Solver draws noise, diffusers' default."""


def sa_solver(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
    *,
    levels: NoiseLevels,
    eta: float = 1.0,
) -> Iterator[Step]:
    """SA-Solver: Xue et al. 2023, algorithm 1, predictor and corrector of two estimates each.

    An interval first corrects its start with the estimate made there, then predicts its end;
    ``eta`` is the paper's tau between the ``SA_TIMESTEPS``, elsewhere it is 0. Memory: the
    estimates, and of the interval before its corrected start and its noise.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = recall(history, "x0", min(todo.start, 2))
    starts = recall(history, "start", min(todo.start, 1))
    draws = recall(history, "noise", int("noise_1" in history))
    total = len(sigmas) - 1

    def tau(i: int) -> float:
        low, high = SA_TIMESTEPS
        return eta if low <= levels.sigma_to_timestep(float(sigmas[i])) <= high else 0.0

    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if starts:
            ends = sigmas[i - 1 : i + 1][::-1]
            x = _adams(starts[0], [x0, old[0]], ends, i - 1, sigmas, tau(i - 1), draws)
        old, starts, draws = [x0, *old][:2], [x], []
        if tau(i) > 0.0 and sigma_next > 0.0:
            draws = [noise(sigma, sigma_next)]
        used = min(2, i + 1, total - i)
        x = _adams(x, old[:used], sigmas[: i + 1][::-1][:used], i, sigmas, tau(i), draws)
        history = keep("x0", old) | keep("start", starts) | keep("noise", draws)
        yield finish(i, sigmas, x, x0, noise, history)


def _adams(
    x: Float32,
    estimates: Sequence[Float32],
    nodes: Float32,
    i: int,
    sigmas: Float32,
    tau: float,
    draws: Sequence[Float32],
) -> Float32:
    """A stochastic Adams update of interval ``i``; ``estimates`` were made at levels ``nodes``."""
    sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
    if sigma_next == 0.0:
        return estimates[0]
    places = [-math.log(float(node)) for node in nodes]
    start, end = -math.log(sigma), -math.log(sigma_next)
    rate, h = 1.0 + tau * tau, end - start
    weights: Float64 = lagrange_integrals(places, start, end, rate)
    if len(estimates) == 2:
        # The authors' change of third order, which makes few steps better.
        rest = (h * rate + math.expm1(-rate * h)) / (rate * rate)
        bend = 0.5 * h - rest / h
        if places[0] != end:
            bend = (0.5 * h * h - rest) / (places[0] - places[1])
        weights = weights + np.array([bend, -bend])
    x = x * (sigma_next / sigma * math.exp(-tau * tau * h))
    for estimate, weight in zip(estimates, (rate * weights).tolist(), strict=True):
        x = x + estimate * weight
    for draw in draws:
        x = x + draw * (sigma_next * math.sqrt(-math.expm1(-2.0 * tau * tau * h)))
    return x
