"""From a network's prediction to an estimate of the clean latents: scaling, guidance, batching."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from sdlite.errors import RequestError, UnknownName
from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.schedules import lcm_timesteps
from sdlite.types import Denoise, Estimate, Float32

Predict: TypeAlias = Callable[[Float32, Float32, Float32], Float32]
"""``(x, timestep, context) -> prediction``: float32 latents (batch, c, h, w) in the model's own
scale, timesteps (batch,), text conditioning (batch, tokens, d); returns what the network says."""

PREDICTIONS = ("epsilon", "v_prediction")

LCM_TIMESTEP_SCALING = 10.0
LCM_SIGMA_DATA = 0.5


def denoiser(
    predict: Predict,
    levels: NoiseLevels,
    prediction: str,
    cond: Float32,
    uncond: Float32 | None,
    guidance: float,
    batched: bool,
    *,
    consistency: bool = False,
) -> Denoise:
    """Build ``denoise(x, sigma) -> Estimate`` around a network.

    The network sees ``x / sqrt(sigma**2 + 1)`` and the timestep of ``sigma``. With guidance the
    estimate is ``uncond + guidance * (cond - uncond)`` (Ho and Salimans 2022).

    Args:
        predict: the network.
        levels: noise levels of the model.
        prediction: ``"epsilon"`` or ``"v_prediction"`` (Salimans and Ho 2022).
        cond: conditioning of the prompt, (1 or batch, tokens, d).
        uncond: conditioning of the negative prompt, (1 or batch, tokens, d), or None.
        guidance: scale; 1 or less turns guidance off and saves the call without prompt.
        batched: one call with prompt and negative prompt stacked, in that order; otherwise (and
            always when they differ in length) two calls.
        consistency: the network is a consistency model (LCM). Timesteps are rounded to those it
            was distilled at, and the estimate gets the boundary scaling of Luo et al. 2023
            (timestep scaling 10, sigma_data 0.5) as A1111 applies it.

    Raises:
        UnknownName: ``prediction`` is neither.
        RequestError: when called, for a conditioning that fits neither one image nor the batch.
    """
    if prediction not in PREDICTIONS:
        raise UnknownName("prediction type", prediction, PREDICTIONS)
    known = lcm_timesteps(levels) if consistency else None
    known_logs = None if known is None else np.log(levels.sigmas[known])
    negative = uncond if guidance > 1.0 else None
    stacked = batched and negative is not None and negative.shape[1:] == cond.shape[1:]

    def timestep_of(sigma: float) -> float:
        if known is None or known_logs is None:
            return levels.sigma_to_timestep(sigma)
        return float(known[np.argmin(np.abs(known_logs - np.log(sigma)))])

    def estimate(x: Float32, out: Float32, sigma: float, timestep: float) -> Float32:
        if prediction == "epsilon":
            x0: Float32 = x - out * sigma
        else:
            variance = sigma * sigma + 1.0
            x0 = x * (1.0 / variance) - out * (sigma / variance**0.5)
        if not consistency:
            return x0
        scaled = timestep * LCM_TIMESTEP_SCALING
        variance = scaled * scaled + LCM_SIGMA_DATA**2
        x0 = x0 * (scaled / variance**0.5) + x * (LCM_SIGMA_DATA**2 / variance)
        return x0

    def denoise(x: Float32, sigma: float) -> Estimate:
        batch = len(x)
        timestep = timestep_of(sigma)
        scaled = x * (1.0 / (sigma * sigma + 1.0) ** 0.5)
        times = np.full(batch, timestep, np.float32)
        prompt = _for_batch(cond, batch)
        if negative is None:
            return Estimate(estimate(x, predict(scaled, times, prompt), sigma, timestep))
        against = _for_batch(negative, batch)
        if stacked:
            out = predict(
                np.concatenate([scaled, scaled]),
                np.concatenate([times, times]),
                np.concatenate([prompt, against]),
            )
            out_cond, out_uncond = out[:batch], out[batch:]
        else:
            out_cond = predict(scaled, times, prompt)
            out_uncond = predict(scaled, times, against)
        with_prompt = estimate(x, out_cond, sigma, timestep)
        without = estimate(x, out_uncond, sigma, timestep)
        return Estimate(without + (with_prompt - without) * guidance, without)

    return denoise


def _for_batch(context: Float32, batch: int) -> Float32:
    """Conditioning repeated for every image of the batch."""
    if len(context) == batch:
        return context
    if len(context) != 1:
        raise RequestError(
            f"conditioning of {len(context)} images does not fit a batch of {batch}; "
            "give one for all or one each"
        )
    return np.repeat(context, batch, axis=0)
