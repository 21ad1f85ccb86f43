"""Samplers that remember the estimate of the interval before: DPM-Solver++ (Lu et al. 2022).

Both are algorithm 2 of that paper (and its stochastic form) in ``lambda = -log sigma``, as
k-diffusion writes them. Their memory is ``history["x0"]``, float32 of the latents' shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from sdlite.errors import RequestError
from sdlite.sampling.samplers import begin, finish
from sdlite.types import Array, Denoise, Float32, Noise, SamplerState, Step


def _previous_x0(history: Mapping[str, Array], index: int) -> Float32 | None:
    """Estimate of the interval before ``index``; None only at the very start."""
    if index == 0:
        return None
    if "x0" not in history:
        raise RequestError("cannot resume: the state holds no estimate of the interval before")
    return history["x0"]


def dpmpp_2m(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(2M); first order in the first interval and in the one that ends in 0."""
    x, todo, history = begin(x, sigmas, noise, resume)
    old = _previous_x0(history, todo.start)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            h = math.log(sigma / sigma_next)
            slope = x0
            if old is not None:
                h_last = math.log(float(sigmas[i - 1]) / sigma)
                weight = h / (2.0 * h_last)
                slope = x0 * (1.0 + weight) - old * weight
            x = x * (sigma_next / sigma) - slope * math.expm1(-h)
        old = x0
        yield finish(i, sigmas, x, x0, noise, {"x0": x0})


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Float32,
    sigmas: Float32,
    noise: Noise,
    resume: SamplerState | None = None,
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M), midpoint form, eta 1.

    k-diffusion and A1111 read its noise off a Brownian path, diffusers draws it afresh: the same
    distribution, not the same picture. The noise source decides, see ``noise_for``.
    """
    x, todo, history = begin(x, sigmas, noise, resume)
    old = _previous_x0(history, todo.start)
    for i in todo:
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        x0 = denoise(x, sigma).x0
        if sigma_next == 0.0:
            x = x0
        else:
            h = math.log(sigma / sigma_next)
            gain = -math.expm1(-2.0 * h)
            x = x * (sigma_next / sigma * math.exp(-h)) + x0 * gain
            if old is not None:
                h_last = math.log(float(sigmas[i - 1]) / sigma)
                x = x + (x0 - old) * (0.5 * gain * h / h_last)
            x = x + noise(sigma, sigma_next) * (sigma_next * math.sqrt(gain))
        old = x0
        yield finish(i, sigmas, x, x0, noise, {"x0": x0})
